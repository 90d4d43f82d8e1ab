"""Images per second and memory of one training step on a GPU: ours against PyTorch, plain and tuned.

    pip install -e . torch     # with CUDA builds of JAX and PyTorch
    python -m benchmarks.step_gpu --out=benchmarks/results/step_gpu.json
    python -m benchmarks.step_gpu --sizes 64x64 --batch=1 --width=0.5 --steps=2    # a trial on a CPU

The step of benchmarks/step_cpu.py with labeled and unlabeled batches of 10 at 512x512 and at CamVid's 360x480:
`reference` is PyTorch in float32 without TF32, as in the paper's code; `tuned` is PyTorch with channels_last, bfloat16
autocast and torch.compile; ours in `float32` and `bfloat16`. Each runs in its own process. `share_of_matmul_rate` is
the FLOPs per second of a step, by XLA's count before optimization, over the measured rate of a large bfloat16 matrix
product.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import step_cpu
from usss_jax.config import read_size

IMPLEMENTATIONS = ("float32", "bfloat16", "reference", "tuned")  # ours first: it writes the weights
MATMUL = 8192  # side of the square matrices


def prepare(name: str, width: float, batch: int, size: tuple[int, int], weights: pathlib.Path):
    """Return a function that runs a step and returns its loss, and one that returns the device's peak bytes."""
    if name in ("float32", "bfloat16"):
        import jax

        stats = jax.devices()[0].memory_stats
        return step_cpu.prepare_ours("drn_d_22", width, batch, size, weights, precision=name), lambda: (
            stats() or {}
        ).get("peak_bytes_in_use")
    import torch

    from benchmarks import torch_step

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = name == "tuned"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = step_cpu.prepare_torch("drn_d_22", width, batch, size, weights, "entropy", name == "tuned", device)

    def peak():
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    if name == "reference":
        return run, peak
    compiled = torch.compile(torch_step.loss)

    def tuned_step(model, optimizer, data, constants):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            value = compiled(model, data, constants)
        value.backward()
        optimizer.step()
        return value.detach()

    return lambda: run(tuned_step), peak


def measure(name: str, width: float, batch: int, size: tuple[int, int], steps: int, weights: pathlib.Path) -> dict:
    """Measure the losses of two steps, the median seconds of `steps` further ones, and the device's peak memory."""
    run, peak = prepare(name, width, batch, size, weights)
    losses, seconds = [run(), run()], []
    for _ in range(3):
        run()  # until clocks and autotuning settle
    for _ in range(steps):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    result = {"losses": losses, "seconds": statistics.median(seconds), "peak_bytes": peak()}
    if name == "float32":  # all implementations have the same shapes
        from benchmarks.compiled_step import StepConfig, lower_step
        from usss_jax.parallel.sharding import create_mesh

        config = StepConfig(width=width, size=size, batch=batch, micro_batch=batch, passes=1)
        result["flops"] = lower_step(config, create_mesh()).cost_analysis()["flops"]
    return result


def matmul_rate(side: int) -> float:
    """Measure the FLOPs per second of a square bfloat16 matrix product."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    repeats = 20 if side > 2048 else 5
    began = time.perf_counter()
    for _ in range(repeats):
        y = product(x)
    y.block_until_ready()
    return 2 * side**3 * repeats / (time.perf_counter() - began)


def measure_apart(*words) -> dict:
    """Run this script with --measure in a new process; return its result."""
    command = [sys.executable, "-m", "benchmarks.step_gpu", "--measure", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def compare(width: float, batch: int, size: tuple[int, int], steps: int, rate: float) -> dict:
    """Measure every implementation at one size: images per second, and ratios."""
    text = f"{size[0]}x{size[1]}"
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder) / "weights.safetensors"
        out = {name: measure_apart(name, width, batch, text, steps, weights) for name in IMPLEMENTATIONS}
    images = 2 * batch * len(step_cpu.CLASSES)
    speed = {}
    for name, result in out.items():
        if "failed" in result:
            continue
        result["same_losses"] = bool(np.allclose(result["losses"], out["float32"]["losses"], rtol=0.01))
        if result["same_losses"]:  # else it is not compared
            speed[name] = result["images_per_second"] = images / result["seconds"]
            result["share_of_matmul_rate"] = out["float32"]["flops"] / result["seconds"] / rate
    ratios = {f"bfloat16/{name}": speed["bfloat16"] / speed[name] for name in speed if "bfloat16" in speed}
    return {**out, "ratio": ratios}


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=read_size, nargs="*", default=((512, 512), (360, 480)), help="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--matmul", type=int, default=MATMUL)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/step_gpu.json"))
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        if args.measure[0] == "environment":
            from usss_jax.runs.logs import environment

            print(json.dumps({**environment(), "bfloat16_matmul_flops": matmul_rate(args.matmul)}))
            return
        name, width, batch, size, steps, weights = args.measure
        case = (float(width), int(batch), read_size(size), int(steps), pathlib.Path(weights))
        print(json.dumps(measure(name, *case)))
        return

    # In a new process, since JAX would reserve most of the device's memory.
    about = measure_apart("environment", f"--matmul={args.matmul}")
    result: dict = {key: getattr(args, key) for key in ("batch", "width", "steps")} | {"cases": {}}
    for size in args.sizes:
        case = compare(args.width, args.batch, size, args.steps, about["bfloat16_matmul_flops"])
        result["cases"][f"{size[0]}x{size[1]}"] = case
        print(f"{size}: {json.dumps(case, indent=2)}")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**result, **about}, indent=2) + "\n")


if __name__ == "__main__":
    main()
