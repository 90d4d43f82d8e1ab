"""How soon the entropy terms collapse onto one label embedding, under several settings.

    python -m benchmarks.collapse --config=configs/cvd_iddlite.py --arg=cpu --data_root=DATA \
        --workdir=runs/cvd_iddlite_cpu --out=benchmarks/results/collapse_cvd_iddlite_cpu.json

`--workdir` is a finished run of the same config, whose label embeddings are taken. Univ-full is trained anew for a few
steps under every setting, from the same weights and batches; recorded are, averaged over the pairs (images of i,
embeddings of j): mean pixel entropy in nats, entropy of the mean prediction, and the share of cells whose most similar
embedding is the most used one (1 = collapsed); and the gradient norm. Nothing is evaluated on any split.
"""

import argparse
import importlib.util
import json
import pathlib

import jax
import numpy as np

from usss_jax.config import checked
from usss_jax.data import streams
from usss_jax.data.pools import open_all
from usss_jax.engine import optim
from usss_jax.engine.state import create_state
from usss_jax.methods.usss import label_embeddings, variants
from usss_jax.methods.usss.step import Objective, jit_train_step
from usss_jax.parallel import sharding
from usss_jax.runs import logs, networks

SETTINGS = {
    "paper's terms, the config's lr": {},
    "lr 0.001 (the paper's)": {"lr": 1e-3},
    "alpha = beta = 0.1": {"alpha": 0.1, "beta": 0.1},
    "alpha = beta = 0.01": {"alpha": 0.01, "beta": 0.01},
    "similarity_scale 0.1": {"similarity_scale": 0.1},
    "similarity_scale 10": {"similarity_scale": 10.0},
}
RECORDED = (1, 2, 5, 10, 20, 50, 100, 200)


def trace(config, pools, embeddings, steps: int, change: dict) -> dict:
    """Train Univ-full for some steps under one changed setting; return the watched values by step."""
    lr = change.get("lr", config.optim.lr)
    objective = Objective(
        change.get("alpha", config.usss.alpha),
        change.get("beta", config.usss.beta),
        change.get("similarity_scale", config.usss.similarity_scale),
    )
    mesh = sharding.create_mesh()
    model = networks.stage_model(config, pools, config.usss.embed_dim)
    tx = optim.create_optimizer(
        lr, config.train.steps, momentum=config.optim.momentum, weight_decay=config.optim.weight_decay
    )
    state, _ = create_state(model, tx, config.train.seed, mesh, embeddings)
    step = jit_train_step(mesh, model=model, tx=tx, objective=objective, has_unlabeled=True)
    batches = streams.step_batches(
        pools,
        batch_size=config.train.batch_size,
        unlabeled_batch_size=config.train.unlabeled_batch_size,
        unlabeled_batches=variants.universal_stage(config, "full", pools, embeddings, {}).unlabeled_batches,
        seed=config.train.seed,
    )
    out, iterator = {}, streams.iterate(batches, 0, config.data.loader_threads)
    for i in range(1, steps + 1):
        state, scalars = step(state, sharding.put(next(iterator), sharding.step_batch_shardings(mesh)))
        if i in RECORDED:
            values = {k: float(v) for k, v in jax.device_get(scalars).items()}
            mean = {
                name: float(np.mean([v for k, v in values.items() if k.startswith(name + "/")]))
                for name in ("entropy", "entropy_of_mean", "top_share", "supervised")
            }
            out[i] = {**mean, "grad_norm": values["grad_norm"]}
    iterator.close()
    return out


def markdown(result: dict, at: tuple[str, ...] = ("1", "5", "10", "20", "50", "100")) -> str:
    """Table of a result: mean pixel entropy in nats / share of the most used embedding, by step."""
    lines = ["| setting | " + " | ".join(f"step {step}" for step in at) + " |", "|---" * (len(at) + 1) + "|"]
    for name, steps in result["settings"].items():
        cells = [f"{steps[s]['entropy']:.3f} / {100 * steps[s]['top_share']:.0f} %" for s in at]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    """Run every setting and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--arg", default=None, help="argument of get_config")
    parser.add_argument("--data_root", default="")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="finished run with label embeddings")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("config", args.config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(args.arg)
    config.data.root = args.data_root
    config = checked(config)
    pools = open_all(config)
    embeddings, _ = label_embeddings.load(args.workdir / "prototypes" / "label_embeddings.npz")
    result = {"config": f"{args.config}:{args.arg}", "seed": config.train.seed, "settings": {}, **logs.environment()}
    for name, change in SETTINGS.items():
        result["settings"][name] = trace(config, pools, embeddings, args.steps, change)
        print(name, json.dumps(result["settings"][name][args.steps]), flush=True)
        logs.write_json(args.out, result)
    written = json.loads(args.out.read_text())
    print(markdown(written, tuple(next(iter(written["settings"].values())))))


if __name__ == "__main__":
    main()
