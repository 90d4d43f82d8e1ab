"""The first levels at full resolution, plain and by space-to-depth: what the change costs and saves. Nothing is kept.

    python -m benchmarks.stem --topologies v5e:1 h100:1

A 7x7 convolution of 3 channels with stride 1 equals one of the image's 2x2 blocks (12 channels, half the size) that
makes the 4x16 channels of each block: a pixel of a block sees 7 + 1 neighbours, hence a kernel of 5x5 blocks (4 would
do for one of the block's rows, 5 for both; zeros fill the rest). The levels 1 and 2 follow in the same way (3x3
kernels of 3x3 blocks, 64 channels; level 2, with stride 2, makes one pixel of a block). Compiled ahead of time for the
result and for both gradients; the compilers' own counts.
"""

import argparse
import json
import pathlib
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import hlo
from benchmarks.compiled_step import SIZES, costs, memory, topology_mesh
from usss_jax.training.logs import environment, write_json
from usss_jax.training.sharding import create_mesh, replicated

RESULT = pathlib.Path(__file__).parent / "results" / "stem.json"
CHANNELS = (3, 16, 16)  # of the image, level 0 and level 1
IMAGES = 20  # of a pass: two domains of 10


def block_kernel(kernel):
    """Kernel [k, k, C, K] of stride 1 -> that on 2x2 blocks, [m, m, 4C, 4K] with m = (k + 3) // 2 rounded up to odd."""
    side, _, inputs, outputs = kernel.shape
    reach = -(-(side // 2) // 2)  # blocks to each side
    blocks = 2 * reach + 1
    first = 2 * reach - side // 2  # a block's row 0 sees rows first .. first + side - 1
    rows = [
        [
            jnp.pad(
                kernel,
                (
                    (first + i, 2 * blocks - side - first - i),
                    (first + j, 2 * blocks - side - first - j),
                    (0, 0),
                    (0, 0),
                ),
            )
            for j in range(2)
        ]
        for i in range(2)
    ]
    whole = jnp.stack([jnp.stack(row) for row in rows])  # [2, 2, 2m, 2m, C, K]
    whole = whole.reshape(2, 2, blocks, 2, blocks, 2, inputs, outputs)
    return whole.transpose(2, 4, 3, 5, 6, 0, 1, 7).reshape(blocks, blocks, 4 * inputs, 4 * outputs)


def to_blocks(x):
    """[B, H, W, C] -> [B, H / 2, W / 2, 4C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def from_blocks(x):
    """The inverse of `to_blocks`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def convolve(x, kernel):
    """Stride 1, zeros around."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain(image, kernels):
    """Levels 0 and 1 without batch norm: two convolutions with a ReLU after each."""
    for kernel in kernels:
        image = jax.nn.relu(convolve(image, kernel))
    return image


def blocked(image, kernels):
    """The same on blocks from the start; the result stays in blocks, as level 2 would take it."""
    image = to_blocks(image)
    for kernel in kernels:
        image = jax.nn.relu(convolve(image, block_kernel(kernel)))
    return image


def blocked_first(image, kernels):
    """Level 0 on blocks, its result as an image again."""
    image = from_blocks(convolve(to_blocks(image), block_kernel(kernels[0])))
    return plain(jax.nn.relu(image), kernels[1:])


WAYS = {"plain": plain, "level 0 in blocks": blocked_first, "levels 0 and 1 in blocks": blocked}


def flops(way: str, size: tuple[int, int]) -> int:
    """Multiply-adds twice, forward, of one image."""
    total = 0
    for level, (inputs, outputs, side) in enumerate(((3, 16, 7), (16, 16, 3))):
        in_blocks = way == "levels 0 and 1 in blocks" or (level == 0 and way != "plain")
        of_pixel = side**2 * inputs * outputs
        if in_blocks:
            of_pixel = (2 * -(-(side // 2) // 2) + 1) ** 2 * 4 * inputs * outputs
        total += 2 * size[0] * size[1] * of_pixel
    return total


def compile_way(way, size: tuple[int, int], mesh):
    """Value and gradient in the kernels, bfloat16."""
    shapes = [(7, 7, 3, 16), (3, 3, 16, 16)]
    place = partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16, sharding=replicated(mesh))

    def loss(kernels, image):
        return jnp.square(way(image, kernels).astype(jnp.float32)).mean()

    step = jax.jit(jax.value_and_grad(loss))
    return step.lower([place(s) for s in shapes], place((IMAGES, *size, 3))).compile()


def check() -> float:
    """Largest difference between the ways on a small image, float32."""
    r = np.random.default_rng(0)
    kernels = [jnp.asarray(r.standard_normal(s), jnp.float32) for s in ((7, 7, 3, 16), (3, 3, 16, 16))]
    image = jnp.asarray(r.standard_normal((2, 12, 16, 3)), jnp.float32)
    one = plain(image, kernels)
    others = (blocked_first(image, kernels), from_blocks(blocked(image, kernels)))
    return max(float(jnp.abs(one - other).max() / jnp.abs(one).max()) for other in others)


def estimated_cycles(text: str) -> int | None:
    """Sum of the cycles that the TPU compiler notes at what it launches; None where it notes none."""
    program = hlo.parse(text)
    entry = [re.search(r'"estimated_cycles":"(\d+)"', i.line) for i in program.computations[program.entry]]
    found = [int(n.group(1)) for n in entry if n]
    return sum(found) if found else None


def measure(topologies: list[str], size: str) -> dict:
    """Everything that the table needs."""
    result: dict = {"images": IMAGES, "size": size, "difference": check(), "devices": {}}
    for topology in topologies:
        mesh = topology_mesh(topology) if topology != "cpu" else create_mesh(jax.devices()[:1])
        ways = {}
        for name, way in WAYS.items():
            compiled = compile_way(way, SIZES[size], mesh)
            ways[name] = {
                "costs": costs(compiled),
                "memory": memory(compiled),
                "estimated_cycles": estimated_cycles(compiled.as_text()),
                "forward_flops": IMAGES * flops(name, SIZES[size]),
            }
        result["devices"][topology] = ways
    return result


def markdown(result: dict) -> str:
    """Table of the result."""
    lines = [
        "| compiled for | stem | forward, GFLOP | compiler: GB accessed | peak GB | million cycles |",
        "|---|---|---|---|---|---|",
    ]
    for device, ways in result["devices"].items():
        for name, found in ways.items():
            accessed = f"{found['costs']['bytes_accessed'] / 1e9:.2f}" if found["costs"] else "n/a"
            cycles = f"{found['estimated_cycles'] / 1e6:.1f}" if found["estimated_cycles"] else "n/a"
            lines.append(
                f"| {device} | {name} | {found['forward_flops'] / 1e9:.0f} | {accessed} "
                f"| {found['memory']['peak'] / 1e9:.2f} | {cycles} |"
            )
    return "\n".join(lines)


def main():
    """Compile and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topologies", nargs="*", default=["v5e:1"])
    parser.add_argument("--size", default="360x480", choices=list(SIZES))
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    args = parser.parse_args()
    old = json.loads(args.out.read_text())["devices"] if args.out.exists() else {}
    result = measure(args.topologies, args.size)
    result["devices"] = {**old, **result["devices"]}
    write_json(args.out, {**result, **environment()})
    print(markdown(result))


if __name__ == "__main__":
    main()
