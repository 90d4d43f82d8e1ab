"""Every convolution of DRN-D-22 at its place: ours against XLA's plain one and PyTorch's, forward and backward.

    pip install -e '.[torch]'
    python -m benchmarks.convolutions --out=benchmarks/results/convolutions_cpu.json

Each implementation runs in a process of its own; they are measured in turns. `ratio` is the faster PyTorch layout's
time over ours, per convolution: of the result, and of the gradients in input and kernel; above 1, ours is faster.
"""

import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

IMPLEMENTATIONS = ("ours", "xla", "torch_nchw", "torch_channels_last")
PARTS = ("forward", "of_input", "of_kernel")
PAUSE = 0.3  # seconds between two implementations: threads of the one before may wait actively for more
CHANNELS = (16, 16, 32, 64, 128, 256, 512, 512, 512)
# Level: side of the image over that of its input, input channels' level (None: the image), kernel, stride, dilation.
LEVELS = {
    "level0": (1, None, 0, 7, 1, 1),
    "level1": (1, 0, 1, 3, 1, 1),
    "level2": (1, 1, 2, 3, 2, 1),
    "level3_first": (2, 2, 3, 3, 2, 1),
    "level3": (4, 3, 3, 3, 1, 1),
    "level4_first": (4, 3, 4, 3, 2, 1),
    "level4": (8, 4, 4, 3, 1, 1),
    "level5_first": (8, 4, 5, 3, 1, 2),
    "level5": (8, 5, 5, 3, 1, 2),
    "level6_first": (8, 5, 6, 3, 1, 4),
    "level6": (8, 6, 6, 3, 1, 4),
    "level7": (8, 6, 7, 3, 1, 2),
    "level8": (8, 7, 8, 3, 1, 1),
}


def shapes(level: str, batch: int, size: tuple[int, int], width: float):
    """Input [B, H, W, C], kernel [k, k, C, K], stride and dilation of a level."""
    shrunk, before, own, kernel, stride, dilation = LEVELS[level]
    channels = [max(1, round(n * width)) for n in CHANNELS]
    inputs = 3 if before is None else channels[before]
    return (
        (batch, size[0] // shrunk, size[1] // shrunk, inputs),
        (kernel, kernel, inputs, channels[own]),
        stride,
        dilation,
    )


def jax_parts(name: str, x_shape, kernel_shape, stride: int, dilation: int) -> dict[str, Callable]:
    """Functions that compute result and gradients and wait for them."""
    import jax

    from usss_jax.models import convolution

    x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate((x_shape, kernel_shape)))

    def convolve(x, kernel):
        if name == "ours":
            return convolution.convolve(x, kernel, stride, dilation)
        return convolution.plain(x, kernel, stride=stride, dilation=dilation, precision=None)

    y = jax.jit(convolve)(x, kernel)
    programs = {
        "forward": jax.jit(convolve),
        "of_input": jax.jit(lambda x, kernel: jax.vjp(lambda x: convolve(x, kernel), x)[1](y)[0]),
        "of_kernel": jax.jit(lambda x, kernel: jax.vjp(lambda k: convolve(x, k), kernel)[1](y)[0]),
    }
    return {part: lambda p=p: p(x, kernel).block_until_ready() for part, p in programs.items()}


def torch_parts(name: str, x_shape, kernel_shape, stride: int, dilation: int) -> dict[str, Callable]:
    """The same in PyTorch."""
    import torch

    layout = torch.channels_last if name == "torch_channels_last" else torch.contiguous_format
    x = torch.randn(*x_shape).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    kernel = torch.randn(*kernel_shape).permute(3, 2, 0, 1).contiguous(memory_format=layout)
    padding = dilation * (kernel_shape[0] - 1) // 2
    y = torch.nn.functional.conv2d(x, kernel, None, stride, padding, dilation)

    def backward(mask):
        sizes = ([stride] * 2, [padding] * 2, [dilation] * 2)
        return torch.ops.aten.convolution_backward(y, x, kernel, None, *sizes, False, [0, 0], 1, mask)

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, kernel, None, stride, padding, dilation),
        "of_input": lambda: backward([True, False, False]),
        "of_kernel": lambda: backward([False, True, False]),
    }


def serve(name: str, batch: int, size: int, width: float, repeats: int):
    """Make every part of every level; then measure the levels named on the lines of stdin, one JSON line for each."""
    make = torch_parts if name.startswith("torch") else jax_parts
    parts = {level: make(name, *shapes(level, batch, (size, size), width)) for level in LEVELS}
    for level in map(str.strip, sys.stdin):
        seconds: dict[str, list[float]] = {}
        for part, function in parts[level].items():
            function()
            seconds[part] = []
            for _ in range(repeats):
                began = time.perf_counter()
                function()
                seconds[part].append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


class Worker:
    """A process that measures one implementation when it is asked to."""

    def __init__(self, name: str, *setting):
        command = [sys.executable, "-m", "benchmarks.convolutions", "--serve", name, *map(str, setting)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.failed = ""
        self.forget()

    def forget(self):
        """Begin anew: what was measured so far does not count."""
        self.seconds: dict = {level: {part: [] for part in PARTS} for level in LEVELS}

    def measure(self, level: str):
        """Let it measure a level; a process that died is remembered as failed and not asked again."""
        if self.failed:
            return
        try:
            print(level, file=self.process.stdin, flush=True)
            found = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.failed = f"exit code {self.process.wait()}"
            return
        for part in PARTS:
            self.seconds[level][part] += found[part]

    def result(self) -> dict:
        """End it; median milliseconds of every part of every level."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        if self.failed:
            return {"failed": self.failed}
        return {
            level: {part: 1000 * statistics.median(s) for part, s in parts.items()}
            for level, parts in self.seconds.items()
        }


def compare(batch: int, size: int, width: float, repeats: int, rounds: int) -> dict:
    """Measure all implementations level by level, in turns, so that what else the machine does hits all of them."""
    workers = {name: Worker(name, batch, size, width, repeats) for name in IMPLEMENTATIONS}
    for turn in range(rounds + 1):
        for level in LEVELS:
            for worker in workers.values():
                worker.measure(level)
                time.sleep(PAUSE)
        if turn == 0:  # some were still getting ready
            for worker in workers.values():
                worker.forget()
    return {name: worker.result() for name, worker in workers.items()}


def of_a_pass(milliseconds: dict) -> float:
    """Milliseconds of all convolutions of one pass, forward and backward; the images need no gradient."""
    times = {level: 3 if f"{level}_first" in LEVELS else 1 for level in LEVELS}
    total = sum(times[level] * sum(parts.values()) for level, parts in milliseconds.items())
    return total - milliseconds["level0"]["of_input"]


def markdown(result: dict) -> str:
    """Table of the ratios, forward / gradient in the input / gradient in the kernel, and of all together."""
    widths = list(result["ratio"])
    lines = ["| convolution | " + " | ".join(f"width {w}" for w in widths) + " |", "|---|" + "---|" * len(widths)]
    for level in LEVELS:
        cells = (" / ".join(f"{result['ratio'][w][level][part]:.2f}" for part in PARTS) for w in widths)
        lines.append(f"| {level} | " + " | ".join(cells) + " |")
    cells = []
    for w in widths:
        sums = {name: of_a_pass(times) for name, times in result["milliseconds"][w].items() if "failed" not in times}
        theirs = min(total for name, total in sums.items() if name.startswith("torch"))
        cells.append(f"{sums['ours']:.0f} / {theirs:.0f} ms")
    lines.append("| all of a pass, ours / PyTorch | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def dilation_markdown(result: dict) -> str:
    """Table of our milliseconds at 512 channels by dilation: levels that differ in nothing else."""
    levels = ("level8", "level7", "level6")
    assert len({LEVELS[level][:1] + LEVELS[level][3:5] for level in levels}) == 1
    lines = ["| width | " + " | ".join(f"dilation {LEVELS[level][5]}" for level in levels) + " |"]
    lines.append("|---|" + "---|" * len(levels))
    for width, measured in result["milliseconds"].items():
        cells = (" / ".join(f"{measured['ours'][level][part]:.1f}" for part in PARTS) for level in levels)
        lines.append(f"| {width} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="of one pass: two domains of 4")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--widths", type=float, nargs="*", default=(1.0, 0.25))
    parser.add_argument("--repeats", type=int, default=5, help="of each part, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/convolutions_cpu.json"))
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        name, batch, size, width, repeats = args.serve
        serve(name, int(batch), int(size), float(width), int(repeats))
        return

    from usss_jax.training.logs import environment, write_json

    result: dict = {key: getattr(args, key) for key in ("batch", "size", "repeats", "rounds")}
    result |= {"milliseconds": {}, "ratio": {}}
    for width in args.widths:
        times = compare(args.batch, args.size, width, args.repeats, args.rounds)
        theirs = [t for name, t in times.items() if name.startswith("torch") and "failed" not in t]
        ratios = {
            level: {part: min(t[level][part] for t in theirs) / times["ours"][level][part] for part in PARTS}
            for level in LEVELS
        }
        result["milliseconds"][f"{width:g}"], result["ratio"][f"{width:g}"] = times, ratios
        for level, ratio in ratios.items():
            print(f"width {width:g} {level:13s}" + "  ".join(f"{part} {value:.2f}" for part, value in ratio.items()))
    write_json(args.out, {**result, **environment(), "torch": importlib.metadata.version("torch")})


if __name__ == "__main__":
    main()
