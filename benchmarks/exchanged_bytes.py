"""What devices exchange in one training step, read from the compiled program, and an estimate of what that costs.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.exchanged_bytes --devices=cpu:8
    XLA_FLAGS="--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false" \\
        python -m benchmarks.exchanged_bytes --devices=h100:8
    python -m benchmarks.exchanged_bytes --devices=v5e:4x8

Nothing is run. Images are of 64x64: no exchanged array depends on their size. Each call adds its devices to
benchmarks/results/exchanged_bytes.json; docs/speed.md has the tables.
"""

import argparse
import collections
import json
import pathlib
import re

import jax

from benchmarks import flops, hlo
from benchmarks.compiled_step import CLASSES, EMBED_DIM, Setting, compile_step, topology_mesh
from usss_jax.training.logs import environment, write_json
from usss_jax.training.sharding import create_mesh

RESULT = pathlib.Path(__file__).parent / "results" / "exchanged_bytes.json"
PURPOSES = ("gradients", "batch statistics", "parameters", "label embeddings", "scalars", "other")
PASSES = 2  # unlabeled micro-batches

# Public data sheets: dense bfloat16 FLOP/s; bytes/s in each direction that a ring can use on one device.
# - NVIDIA H100 SXM: 989.4 TFLOPS; NVLink 900 GB/s in both directions together, and 80 % of that is assumed.
# - Cloud TPU v5e: 197 TFLOPS; 1600 Gbit/s of links per chip (four), of which a ring through the slice has two.
PEAK = {"h100": 989.4e12, "v5e": 197e12}
LINK = {"h100": 0.8 * 450e9, "v5e": 100e9}
LATENCY = {"h100": 20e-6, "v5e": 30e-6}  # assumed, of one exchange whatever its size
SHARES = (0.2, 0.4)  # assumed, of the peak that convolutions reach
IMAGES = (2, 10)  # per device, domain and pass
SIZE = (512, 512)


def purpose(op_name: str, size: int) -> str:
    """What an array is exchanged for."""
    if re.search(r"/\w*bn\d*/", op_name):
        return "batch statistics"
    if "state.params" in op_name or "sharding_constraint" in op_name:
        return "parameters"
    if "transpose(jvp(UniversalModel" in op_name:
        return "gradients"
    if size <= 8:
        return "scalars"
    if "embed" in op_name:
        return "label embeddings"
    return "other"


def in_strips(collective: hlo.Collective) -> bool:
    """Whether an exchange lies in the loop over strips of rows (models/strips.py), which is inside a loss."""
    return any(re.search(r"jvp\([^)]*\)/while$", loop) for loop in collective.loops)


def summarize(found: list[hlo.Collective]) -> dict:
    """Bytes of a step by purpose and by kind, those of each unlabeled pass, and how many exchanges there are."""
    by_purpose: collections.Counter = collections.Counter()
    by_kind: collections.Counter = collections.Counter()
    inside_passes: collections.Counter = collections.Counter()
    for collective in found:
        by_kind[collective.kind] += collective.times * collective.bytes
        for size, name in collective.parts:
            by_purpose[purpose(name, size)] += collective.times * size
            if collective.loops:
                inside_passes[purpose(name, size)] += size
    return {
        "bytes": {p: by_purpose[p] for p in PURPOSES},
        "bytes_by_kind": dict(sorted(by_kind.items())),
        "bytes_in_each_pass_of_the_loop": {p: inside_passes[p] for p in PURPOSES if inside_passes[p]},
        "exchanges": sum(collective.times for collective in found),
        "in_strips": [collective.name for collective in found if in_strips(collective)],
    }


def measure(mesh, split: bool, width: float, precision: str) -> dict:
    """Compile the step for the mesh and read its exchanges."""
    setting = Setting(
        width=width,
        precision=precision,
        size=(64, 64),
        batch=mesh.size,
        micro_batch=mesh.size,
        passes=PASSES,
        split=split,
    )
    program = hlo.parse(compile_step(setting, mesh).as_text())
    return summarize(hlo.collectives(program, mesh.size))


def ring_seconds(kinds: dict[str, int], devices: int, link: float) -> float:
    """Time of exchanges on a ring: an all-reduce moves 2 (n - 1) / n of its bytes over every link, others half."""
    whole = sum((2 if kind == "all-reduce" else 1) * size for kind, size in kinds.items())
    return whole * (devices - 1) / devices / link


def estimate(result: dict, kind: str, devices: int, images: int, share: float) -> dict[str, float]:
    """Seconds of a step: convolutions alone, exchanges alone, one after the other, and both at once."""
    setting = Setting(size=SIZE, batch=images, micro_batch=images, passes=PASSES)
    compute = flops.total(flops.step_flops(setting)) / (share * PEAK[kind])
    transfer = ring_seconds(result["bytes_by_kind"], devices, LINK[kind])
    waiting = result["exchanges"] * LATENCY[kind]
    return {
        "compute": compute,
        "transfer": transfer,
        "latency": waiting,
        "without_overlap": compute + transfer + waiting,
        "with_overlap": max(compute + waiting, transfer),  # statistics are waited for, whatever overlaps
    }


def markdown(result: dict) -> str:
    """Table of bytes by purpose."""
    lines = ["| MB of a step | " + " | ".join(PURPOSES) + " | exchanges | in loops over strips |"]
    lines.append("|---|" + "---|" * (len(PURPOSES) + 2))
    for name, found in result["devices"].items():
        for how in ("whole", "split"):
            if how in found:
                one = found[how]
                cells = [f"{one['bytes'][p] / 1e6:.3g}" for p in PURPOSES]
                counts = f"{one['exchanges']} | {len(one['in_strips'])}"
                lines.append(f"| {name}, {found['precision']}, {how} | " + " | ".join(cells) + f" | {counts} |")
    return "\n".join(lines)


def estimate_markdown(result: dict) -> str:
    """Table of the estimates."""
    lines = [
        "| estimate, ms | images per device, domain and pass | share of peak | convolutions | transfer | latency "
        "| one after the other | overlapped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in result["devices"].items():
        for row in found.get("estimates", ()):
            times = (row[k] for k in ("compute", "transfer", "latency", "without_overlap", "with_overlap"))
            cells = " | ".join(f"{1000 * seconds:.1f}" for seconds in times)
            lines.append(f"| {name} | {row['images']} | {row['share']:g} | {cells} |")
    return "\n".join(lines)


def main():
    """Compile, count, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", required=True, help="cpu:8, h100:8 or a TPU slice such as v5e:4x8")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--how", nargs="*", default=("whole", "split"))
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    args = parser.parse_args()
    kind, _, shape = args.devices.partition(":")
    mesh = create_mesh(jax.devices()[: int(shape)]) if kind == "cpu" else topology_mesh(args.devices)
    result = json.loads(args.out.read_text()) if args.out.exists() else {"devices": {}}
    result |= {"classes": CLASSES, "embed_dim": EMBED_DIM, "passes": PASSES}
    found = result["devices"].setdefault(args.devices, {})
    for how in args.how:
        found[how] = measure(mesh, how == "split", args.width, args.precision)
        print(f"{args.devices} {how}: {json.dumps(found[how])}", flush=True)
    found |= {"precision": args.precision, "width": args.width, "count": mesh.size}
    found |= {"compiled_for": mesh.devices.flat[0].device_kind, **environment()}
    if kind in PEAK and "whole" in found:
        found["estimates"] = [
            {"images": images, "share": share, **estimate(found["whole"], kind, mesh.size, images, share)}
            for images in IMAGES
            for share in SHARES
        ]
    write_json(args.out, result)


if __name__ == "__main__":
    main()
