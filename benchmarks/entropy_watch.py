"""What the entropy terms did over whole trainings: a table from the metrics that every run leaves.

    python -m benchmarks.entropy_watch --stages=RUNS/full/full,RUNS/remedy/full --out=benchmarks/results/watch.json

Per stage and step, averaged over the pairs (images of i, embeddings of j): mean pixel entropy in nats, and the share of
cells whose most similar embedding is the most used one (1 = collapsed); and the norms of the gradient at the encoder,
of the supervised terms and of the entropy terms (weights included; - where the run is older than that measurement).
"""

import argparse
import json
import pathlib

import numpy as np

from usss_jax.runs.logs import write_json

STEPS = (1, 10, 50, 100, 300, 600)
NORMS = ("encoder_grad_norm/supervised", "encoder_grad_norm/entropy")


def watch(folder: pathlib.Path, steps=STEPS) -> dict:
    """Watched values of a stage's folder at the given steps, those that were logged."""
    summary = json.loads((folder / "summary.json").read_text())
    out = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if values["step"] in steps and "loss" in values:
            mean = {
                name: float(np.mean([v for k, v in values.items() if k.startswith(f"{name}/")]))
                for name in ("entropy", "entropy_of_mean", "top_share", "supervised")
            }
            out[str(values["step"])] = mean | {name: values[name] for name in NORMS if name in values}
    kept = {key: summary[key] for key in ("objective", "seed", "split_hash", "commit", "device")}
    return {**kept, "steps": out}


def markdown(result: dict) -> str:
    """Table: entropy / share of the most used embedding / gradient norms supervised : entropy, by step."""
    at = [step for step in map(str, STEPS) if all(step in stage["steps"] for stage in result["stages"].values())]
    lines = ["| row | " + " | ".join(f"step {step}" for step in at) + " |", "|---" * (len(at) + 1) + "|"]
    for name, stage in result["stages"].items():
        lines.append(f"| {name} | " + " | ".join(cell(stage["steps"][step]) for step in at) + " |")
    return "\n".join(lines) + "\n"


def cell(values: dict) -> str:
    """One cell of the table."""
    norms = ":".join(f"{values[name]:.2f}" for name in NORMS) if NORMS[1] in values else "-"
    return f"{values['entropy']:.3f} / {100 * values['top_share']:.0f} % / {norms}"


def main():
    """Read the stages and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", required=True, help="folders of finished stages, with commas")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    folders = [pathlib.Path(name) for name in args.stages.split(",")]
    write_json(args.out, {"stages": {folder.parent.name: watch(folder) for folder in folders}})
    print(markdown(json.loads(args.out.read_text())))


if __name__ == "__main__":
    main()
