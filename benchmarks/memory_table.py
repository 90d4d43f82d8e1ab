"""Configurations of a step that fit into a device's memory, by the compiler's analysis: no step is run.

    python -m benchmarks.memory_table --topology=h100:1

For a GPU ahead of time: XLA_FLAGS="--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
(benchmarks/compiled_step.py). Adds missing cases to benchmarks/results/memory_table.json. docs/speed.md has the tables.
"""

import argparse
import itertools
import json
import pathlib

import jax

from benchmarks.compiled_step import CLASSES, EMBED_DIM, SIZES, StepConfig, lower_step, memory, topology_mesh
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs.logs import environment, write_json

RESULT = pathlib.Path(__file__).parent / "results" / "memory_table.json"
BATCH = 10
MICRO_BATCHES = (10, 5, 2, 1)
REMATS = ("", "0-3", "all")
GIGABYTES = (8, 16, 24, 40, 80)
USABLE = 0.9  # share of the memory; the rest is for the runtime, cuDNN's workspaces and fragmentation

# Encoder, precision, size; those that take longest to compile last.
CASES = (
    ("drn_d_22", "bfloat16", "360x480"),
    ("drn_d_22", "float32", "360x480"),
    ("drn_d_22", "bfloat16", "512x512"),
    ("drn_d_22", "float32", "512x512"),
    ("drn_d_105", "bfloat16", "360x480"),
    ("drn_d_105", "bfloat16", "512x512"),
)


def name(encoder: str, precision: str, size: str, micro_batch: int, remat: str) -> str:
    """Return the key of a configuration in the JSON."""
    return f"{encoder}/{precision}/{size}/micro{micro_batch}/remat={remat}"


def measure(mesh, case: tuple[str, str, str], micro_batch: int, remat: str) -> dict[str, int]:
    """Return the bytes of one configuration."""
    encoder, precision, size = case
    # At least two passes, so that there is a loop over them; more passes change only the images' bytes.
    passes = max(2, BATCH // micro_batch)
    config = StepConfig(encoder, 1.0, precision, remat, SIZES[size], BATCH, micro_batch, passes)
    return memory(lower_step(config, mesh).compile())


def fits(peaks: dict[str, dict], case: tuple[str, str, str], gigabytes: int) -> str:
    """Return the fastest configuration that fits: without remat first, then with larger micro-batches.

    "-": even the smallest does not fit; "n/a": it was not compiled.
    """
    for remat in REMATS:
        for micro_batch in MICRO_BATCHES:
            found = peaks.get(name(*case, micro_batch, remat))
            if found and found["peak"] <= USABLE * gigabytes * 1e9:
                return f"{micro_batch}" + (f", remat={remat}" if remat else "")
    return "-" if name(*case, MICRO_BATCHES[-1], REMATS[-1]) in peaks else "n/a"


def markdown(result: dict, topology: str) -> str:
    """Render the peak memory of each configuration for one topology."""
    peaks = result["peaks"][topology]["bytes"]
    title = "| encoder, precision, H x W | " + " | ".join(f"remat={r}" if r else "no remat" for r in REMATS) + " |"
    lines = [title, "|---|" + "---|" * len(REMATS)]
    for case in CASES:
        cells = []
        for remat in REMATS:
            found = [peaks.get(name(*case, micro_batch, remat)) for micro_batch in MICRO_BATCHES]
            cells.append(" / ".join(f"{f['peak'] / 1e9:.1f}" if f else "n/a" for f in found))
        if any(cell.strip("n/a ") for cell in cells):
            lines.append(f"| {', '.join(case)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fits_markdown(result: dict, topology: str) -> str:
    """Render the configurations that fit into each device."""
    peaks = result["peaks"][topology]["bytes"]
    cases = [case for case in CASES if any(key.startswith("/".join(case)) for key in peaks)]
    lines = ["| device | " + " | ".join(", ".join(case) for case in cases) + " |", "|---|" + "---|" * len(cases)]
    for gigabytes in GIGABYTES:
        lines.append(f"| {gigabytes} GB | " + " | ".join(fits(peaks, case, gigabytes) for case in cases) + " |")
    return "\n".join(lines)


def main():
    """Compile the missing configurations and write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="", help="such as h100:1 or v5e:1; empty: the device at hand")
    parser.add_argument("--micro_batches", type=int, nargs="*", default=MICRO_BATCHES)
    parser.add_argument("--remats", nargs="*", default=REMATS)
    parser.add_argument("--cases", nargs="*", default=["/".join(case) for case in CASES])
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out.exists() else {"peaks": {}}
    result |= {"batch": BATCH, "classes": CLASSES, "embed_dim": EMBED_DIM, "usable": USABLE}
    mesh = topology_mesh(args.topology) if args.topology else create_mesh(jax.devices()[:1])
    of_device = result["peaks"].setdefault(args.topology or mesh.devices.flat[0].platform, {"bytes": {}})
    cases = [tuple(text.split("/")) for text in args.cases]
    for remat, case, micro_batch in itertools.product(args.remats, cases, args.micro_batches):
        key = name(*case, micro_batch, remat)
        if key in of_device["bytes"]:
            continue
        of_device["bytes"][key] = measure(mesh, case, micro_batch, remat)
        of_device |= {"compiled_for": mesh.devices.flat[0].device_kind, **environment()}
        write_json(args.out, result)
        print(f"{key}: {of_device['bytes'][key]['peak'] / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
