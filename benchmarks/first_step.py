"""Seconds from the start of a training command to its first step, with an empty and with a filled compilation cache.

    python -m benchmarks.first_step --out=benchmarks/results/first_step.json
    python -m benchmarks.first_step --config=configs/cs_cvd.py -- --config.data_root=DATA --config.variants=basic

The command is usss_jax.main itself with two steps, run twice with the same cache in workdirs of their own; what follows
`--` goes to it too. By default: made-up images, the universal model at full width, labeled and unlabeled batches of 4
at 128x128 of both domains.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

CONFIG = "configs/demo.py"
STEP = ("variants=full", "label_embeddings=random", "width=1", "image_size=128x128", "crop_size=128x128")
STEP += ("batch_size=4", "unlabeled_batch_size=4")
TWO_STEPS = ("steps=2", "eval_every=2", "checkpoint_every=2", "log_every=1")


def measure(config: str, flags: list[str], folder: pathlib.Path, cache: pathlib.Path) -> dict:
    """Seconds to the first step, of them those of compiling the step."""
    words = [sys.executable, "-u", "-m", "usss_jax.main", f"--config={config}", f"--workdir={folder}"]
    words += [f"--compilation_cache={cache}", *flags, *(f"--config.{field}" for field in TWO_STEPS)]
    began = time.perf_counter()
    seconds, lines = {}, []
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            lines.append(line)
            if match := re.search(r"step compiled in (\d+) s", line):
                seconds["compiling_the_step"] = int(match[1])
            if re.search(r"\] step 1/2", line):
                seconds["to_first_step"] = time.perf_counter() - began
    if process.returncode or len(seconds) < 2:
        raise RuntimeError(f"{' '.join(words)} failed:\n{''.join(lines[-20:])}")
    return seconds


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/first_step.json"))
    parser.add_argument("flags", nargs="*", help="further flags of usss_jax.main, after --")
    args = parser.parse_args()
    flags = args.flags or [f"--config.{field}" for field in STEP]

    from usss_jax.training.logs import environment, write_json

    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        seconds = {name: measure(args.config, flags, root / name, root / "cache") for name in ("cold", "warm")}
        cache_bytes = sum(path.stat().st_size for path in (root / "cache").rglob("*") if path.is_file())
    ratio = seconds["cold"]["to_first_step"] / seconds["warm"]["to_first_step"]
    result = {"config": args.config, "flags": flags, "seconds": seconds, "ratio": ratio, "cache_bytes": cache_bytes}
    write_json(args.out, {**result, **environment()})
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
