"""Where a training step's FLOPs, bytes, memory and time go, by level of the encoder and by kind of work.

    python -m benchmarks.profile_step --trace=/tmp/trace
    python -m benchmarks.profile_step --topology=h100:1 --precisions bfloat16

DRN-D-22, two domains (19 and 11 classes), one labeled batch and one unlabeled micro-batch each, supervised + within +
cross. Convolution FLOPs are counted from shapes (benchmarks/flops.py), costs and memory are the compiler's own
analysis. With --trace the step is run: one step to warm up, one by the clock, one recorded. --topology compiles ahead
of time (benchmarks/compiled_step.py). docs/speed.md has the tables.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops, hlo
from benchmarks.compiled_step import (
    SIZES,
    Setting,
    abstract_batch,
    abstract_state,
    compile_step,
    costs,
    memory,
    topology_mesh,
)
from usss_jax.config import read_size
from usss_jax.training.logs import environment, write_json
from usss_jax.training.optim import create_optimizer
from usss_jax.training.sharding import create_mesh

RESULTS = pathlib.Path(__file__).parent / "results"
KINDS = ("convolution", "convolution, gradients", "batch norm", "losses", "optimiser", "other")


def place(op_name: str) -> tuple[str, str]:
    """Part of the network and kind of work of an instruction, by the names that JAX and Flax gave it.

    `transpose(` marks the backward pass. ReLUs of levels without blocks carry no level's name.
    """
    level = re.search(r"encoder/(?:\w+\()?(level\d+)", op_name) or re.search(r"(level\d+)", op_name)
    if level or "UniversalModel.encode" in op_name:
        part = level.group(1) if level else "encoder, no level"
        if re.search(r"(level\d+_conv|/\(?conv\d|shortcut_conv)", op_name):
            return part, "convolution, gradients" if "transpose(" in op_name else "convolution"
        return part, "batch norm" if re.search(r"bn\d*/", op_name) else "other"
    if "UniversalModel." in op_name:
        return "heads", "convolution, gradients" if "transpose(" in op_name else "convolution"
    if "jvp(" in op_name:
        return "losses", "losses"
    return ("optimiser", "optimiser") if "train_step" in op_name else ("other", "other")


def make_arrays(shapes, seed: int = 0):
    """Arrays for a tree of shapes: bytes at random, labels among them below 11, small normal numbers otherwise."""
    r = np.random.default_rng(seed)

    def one(path, a):
        name = jax.tree_util.keystr(path)
        if jnp.issubdtype(a.dtype, jnp.integer):
            high = 11 if "label'" in name else 256 if a.dtype == jnp.uint8 else 1
            value = r.integers(0, high, a.shape).astype(a.dtype)
        elif "scale" in name or "'var'" in name:
            value = np.ones(a.shape, a.dtype)
        else:
            value = (0.05 * r.standard_normal(a.shape)).astype(a.dtype)
        return jax.device_put(value, a.sharding)

    return jax.tree_util.tree_map_with_path(one, shapes)


def run(compiled, setting: Setting, mesh, folder: pathlib.Path) -> float:
    """Run three steps, the last recorded; returns the seconds of the second, which is not."""
    tx = create_optimizer(1e-3, 10**6)
    state = make_arrays(abstract_state(setting, setting.model(), tx, mesh))
    batch = make_arrays(abstract_batch(setting, mesh))
    state, _ = jax.block_until_ready(compiled(state, batch))
    began = time.perf_counter()
    state, scalars = jax.block_until_ready(compiled(state, batch))
    seconds = time.perf_counter() - began
    assert np.isfinite(float(scalars["loss"]))
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(compiled(state, batch))
    return seconds


def read_trace(folder: pathlib.Path, program: hlo.Program) -> dict:
    """Seconds of the operations of the newest trace: by part and kind, the longest ones, and all together.

    Operations that run inside others' time, such as those of a loop's body, count; the loop itself does not. Several
    threads add up: the sum may exceed the time of a step.
    """
    path = max(folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    named = program.named()
    sums: collections.Counter = collections.Counter()
    unknown: collections.Counter = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is None:
                    continue
                instruction = named.get(operation)
                if instruction is not None and instruction.opcode in ("while", "call", "conditional"):
                    continue
                name = name_of(program, instruction) if instruction is not None else ""
                where = place(name) if name or instruction is None else place_unnamed(named, instruction)
                sums[where] += event.duration_ns / 1e9
                if where == ("other", "other"):
                    unknown[re.sub(r"[.\d]+$", "", operation)] += event.duration_ns / 1e9
    parts: dict[str, dict[str, float]] = {}
    for (part, kind), seconds in sorted(sums.items()):
        parts.setdefault(part, {})[kind] = seconds
    return {"parts": parts, "unknown": dict(unknown.most_common(10)), "together": sum(sums.values())}


def place_unnamed(named: dict[str, hlo.Instruction], instruction: hlo.Instruction) -> tuple[str, str]:
    """The same for an instruction without a name.

    XLA's CPU backend rewrites gradients in kernels and drops their names; the gradient that they work on has one.
    """
    if not instruction.name.startswith(("ynn_fusion", "convolution", "dot")):
        return "other", "other"
    for operand in instruction.operands:
        name = hlo.origin(named, named[operand]) if operand in named else ""
        if "transpose(" in name:
            part, _ = place(name)
            return part if part.startswith("level") else "heads", "convolution, gradients"
    return "other", "other"


def name_of(program: hlo.Program, instruction: hlo.Instruction) -> str:
    """op_name of an instruction; of a fusion that has none, the first one inside it."""
    if instruction.op_name:
        return instruction.op_name
    for called in instruction.called:
        for inside in reversed(program.computations.get(called, [])):
            if inside.op_name:
                return inside.op_name
    return ""


def measure(setting: Setting, mesh, trace: pathlib.Path | None) -> dict:
    """Everything of one setting; written as JSON."""
    began = time.perf_counter()
    compiled = compile_step(setting, mesh)
    found = {
        "setting": {**dataclasses.asdict(setting), "size": list(setting.size)},
        "seconds_to_compile": time.perf_counter() - began,
        "convolution_flops": flops.step_flops(setting),
        "costs": costs(compiled),
        "memory": memory(compiled),
    }
    if trace is not None:
        found["seconds"] = run(compiled, setting, mesh, trace)
        found["trace"] = read_trace(trace, hlo.parse(compiled.as_text()))
    return found


def markdown(result: dict) -> str:
    """Table of FLOPs, costs, memory and seconds of every setting."""
    lines = [
        "| H x W, batch, precision | convolutions, TFLOP | forward alone | compiler: TFLOP | GB accessed | peak GB "
        "| seconds of a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in result["steps"].items():
        counted = found["convolution_flops"]
        forward = sum(parts["forward"] for parts in counted.values())
        cells = [f"{flops.total(counted) / 1e12:.2f}", f"{forward / 1e12:.2f}"]
        cells += (
            [f"{found['costs'][k] / s:.2f}" for k, s in (("flops", 1e12), ("bytes_accessed", 1e9))]
            if found["costs"]
            else ["n/a", "n/a"]
        )
        cells += [f"{found['memory']['peak'] / 1e9:.2f}"]
        cells += [f"{found['seconds']:.2f}" if "seconds" in found else "not run"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts_markdown(found: dict) -> str:
    """Table of one traced step: share of FLOPs beside the share of time of every part, by kind."""
    counted, trace = found["convolution_flops"], found["trace"]
    whole = flops.total(counted)
    lines = ["| part | FLOPs, % | time, % | " + ", % | ".join(KINDS) + ", % |", "|---|" + "---|" * (len(KINDS) + 2)]
    sums: collections.Counter = collections.Counter()
    for part, kinds in trace["parts"].items():
        share = f"{100 * sum(counted[part].values()) / whole:.1f}" if part in counted else "-"
        cells = [f"{100 * kinds[k] / trace['together']:.1f}" if k in kinds else "-" for k in KINDS]
        lines.append(
            f"| {part} | {share} | {100 * sum(kinds.values()) / trace['together']:.1f} | " + " | ".join(cells) + " |"
        )
        sums.update(kinds)
    cells = [f"{100 * sums[k] / trace['together']:.1f}" for k in KINDS]
    lines.append("| together | 100.0 | 100.0 | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_part_markdown(result: dict) -> str:
    """Table of the traced steps: share of time of every part, beside its share of FLOPs in the first of them."""
    traced = {name: found for name, found in result["steps"].items() if "trace" in found}
    first = next(iter(traced.values()))
    counted, whole = first["convolution_flops"], flops.total(first["convolution_flops"])
    lines = ["| time, % | FLOPs, % | " + " | ".join(traced) + " |", "|---|" + "---|" * (len(traced) + 1)]
    for part in first["trace"]["parts"]:
        cells = [f"{100 * sum(counted[part].values()) / whole:.1f}" if part in counted else "-"]
        for trace in (found["trace"] for found in traced.values()):
            cells.append(f"{100 * sum(trace['parts'].get(part, {}).values()) / trace['together']:.1f}")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_kind_markdown(result: dict) -> str:
    """Table of the traced steps: share of time of every kind of work."""
    lines = ["| time, % | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
    for name, trace in ((name, found["trace"]) for name, found in result["steps"].items() if "trace" in found):
        sums = {kind: sum(kinds.get(kind, 0) for kinds in trace["parts"].values()) for kind in KINDS}
        lines.append(f"| {name} | " + " | ".join(f"{100 * sums[k] / trace['together']:.1f}" for k in KINDS) + " |")
    return "\n".join(lines)


def main():
    """Measure and write the JSON after each setting; goes on with what the JSON has not got."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=read_size, nargs="*", default=list(SIZES.values()), help="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=10, help="labeled, and unlabeled, images per domain")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precisions", nargs="*", default=("float32", "bfloat16"))
    parser.add_argument("--remat", default="")
    parser.add_argument("--topology", default="", help="such as h100:1 or v5e:1; empty: the device at hand")
    parser.add_argument("--trace", type=pathlib.Path, help="folder of the traces; the step is run")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    mesh = topology_mesh(args.topology) if args.topology else create_mesh(jax.devices()[:1])
    kind = args.topology.partition(":")[0] + "_aot" if args.topology else mesh.devices.flat[0].platform
    out = args.out or RESULTS / f"profile_{kind}.json"
    result = json.loads(out.read_text()) if out.exists() else {"steps": {}}
    for size in args.sizes:
        for precision in args.precisions:
            setting = Setting(
                width=args.width,
                precision=precision,
                remat=args.remat,
                size=tuple(size),
                batch=args.batch,
                micro_batch=args.batch,
            )
            name = f"{size[0]}x{size[1]}, {args.batch}, {precision}" + (f", remat={args.remat}" if args.remat else "")
            found = measure(setting, mesh, args.trace)
            result["steps"][name] = {**found, "compiled_for": mesh.devices.flat[0].device_kind, **environment()}
            write_json(out, result)
            print(
                f"{name}: {json.dumps({k: found[k] for k in ('costs', 'memory', 'seconds') if k in found})}", flush=True
            )
    print(markdown(result))


if __name__ == "__main__":
    main()
