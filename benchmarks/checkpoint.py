"""Time of a checkpoint of Univ-full's state, and how much of it the checksums take.

    python -m benchmarks.checkpoint --encoder=efficientnet_lite0

Checkpoints are written to a temporary folder of --folder, verified and read back; the first one is not counted.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import jax

from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import create_state
from usss_jax.models.universal import create_model
from usss_jax.parallel import sharding
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.checksums import write_checksums
from usss_jax.runs.logs import environment, write_json

CLASSES = {"cityscapes": 19, "camvid": 11}


def noise(like: jax.Array) -> jax.Array:
    """Normally distributed numbers in place of an array; scalars stay."""
    return jax.random.normal(jax.random.key(like.size), like.shape) if like.ndim else like


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="drn_d_22")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--embed_dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="default: that of temporary files")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/checkpoint.json"))
    args = parser.parse_args()

    model = create_model(args.encoder, CLASSES, width=args.width, embed_dim=args.embed_dim)
    state, _ = create_state(model, create_optimizer(create_schedule(0.01, 100)), 0, sharding.create_mesh())
    state = state.replace(opt_state=jax.tree.map(noise, state.opt_state))  # zeros would be compressed
    seconds: dict[str, list[float]] = {"save": [], "checksums": [], "verify": [], "restore": []}

    def timed(what: str, function: Callable[[], object]):
        began = time.perf_counter()
        function()
        seconds[what].append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = pathlib.Path(name)
        for step in range(args.repeats + 1):
            timed("save", lambda: Checkpoints(folder).save(step, {"state": state}, {"step": step}))  # noqa: B023
            checkpoints = Checkpoints(folder)
            timed("verify", lambda: checkpoints.verify(step))  # noqa: B023
            timed("restore", lambda: checkpoints.restore(step, state=state))  # noqa: B023
            timed("checksums", lambda: write_checksums(folder / str(step), step))  # noqa: B023
        files = [path for path in (folder / str(step)).rglob("*") if path.is_file()]
        megabytes = sum(path.stat().st_size for path in files) / 1e6
    result = {key: value for key, value in vars(args).items() if key not in ("out", "folder")}
    result |= {"megabytes": megabytes, "files": len(files)}
    result |= {f"{what}_seconds": statistics.median(of[1:]) for what, of in seconds.items()}
    write_json(args.out, {**result, "seconds_each": seconds, **environment()})
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
