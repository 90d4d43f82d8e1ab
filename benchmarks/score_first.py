"""Temporary memory and time of the entropy terms, and of a whole step: score first or upsample first.

    python -m benchmarks.score_first --size=512x512 --batch=8 --width=1 --out=benchmarks/results/score_first.json

Upsampling is linear per channel, so both orders are the same function; tests/score_first_test.py checks loss and
gradients. The step compared: supervised loss of one labeled batch and within + cross entropies of one unlabeled batch
for two domains with 19 and 11 classes, gradients of all parameters. Memory is the compiler's own analysis for the
device at hand; nothing is run unless --run is given.
"""

import argparse
import json
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp

from usss_jax.config import read_size
from usss_jax.models.universal import create_model, encode_groups
from usss_jax.models.upsample import upsample
from usss_jax.objectives.entropy import similarities
from usss_jax.objectives.losses import cross_entropy, pixel_entropy
from usss_jax.training.logs import environment, write_json

CLASSES = {"cityscapes": 19, "camvid": 11}


def loss(params, batch_stats, batch, label_embeddings, *, model, score_first: bool):
    """Supervised + within + cross loss of one labeled and one unlabeled batch of one domain.

    The similarities with the label embeddings are computed before the upsampling, or after it at image size (there
    the embedding has `embed_dim` channels). The decoder's logits are upsampled last in either case.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    own = next(iter(CLASSES))
    size = batch["image"].shape[1:3]
    up = partial(upsample, size=size, mode=model.upsample)

    features, _ = encode_groups(model, variables, {own: batch["image"]})
    total = cross_entropy(up(model.apply(variables, features[own], own, method="decode")), batch["label"])

    features, _ = encode_groups(model, variables, {own: batch["unlabeled"]})
    embedding = model.apply(variables, features[own], method="embed")
    return total + entropies(embedding, label_embeddings, up, score_first)


def entropies(embedding, label_embeddings, up, score_first: bool):
    """Within + cross entropy of embeddings [B, h, w, d], in either order."""
    embedding = embedding if score_first else up(embedding)
    scores = (similarities(embedding, constants) for constants in label_embeddings.values())
    return sum(pixel_entropy(up(s) if score_first else s).mean() for s in scores)


def compile_entropies(size: tuple[int, int], batch: int, embed_dim: int, score_first: bool):
    """Compile value and gradient of the entropy terms alone, from the embedding on; returns (compiled, arguments)."""
    arguments = (
        jax.ShapeDtypeStruct((batch, -(-size[0] // 8), -(-size[1] // 8), embed_dim), jnp.float32),
        {d: jax.ShapeDtypeStruct((n, embed_dim), jnp.float32) for d, n in CLASSES.items()},
    )
    function = partial(entropies, up=partial(upsample, size=size), score_first=score_first)
    return jax.jit(jax.value_and_grad(function)).lower(*arguments).compile(), arguments


def compile_step(size: tuple[int, int], batch: int, width: float, embed_dim: int, score_first: bool):
    """Compile value and gradient; returns (compiled, its abstract arguments)."""
    model = create_model("drn_d_22", CLASSES, embed_dim=embed_dim, width=width)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)
    arguments = (
        variables["params"],
        variables["batch_stats"],
        {"image": images, "unlabeled": images, "label": jax.ShapeDtypeStruct((batch, *size), jnp.uint8)},
        {d: jax.ShapeDtypeStruct((n, embed_dim), jnp.float32) for d, n in CLASSES.items()},
    )
    step = jax.jit(jax.value_and_grad(partial(loss, model=model, score_first=score_first)))
    return step.lower(*arguments).compile(), arguments


def measure(compile_, run: bool) -> dict:
    """Memory of both orders, seconds if asked, and the ratios upsample first / score first."""
    out = {}
    for name, score_first in (("upsample_first", False), ("score_first", True)):
        compiled, arguments = compile_(score_first=score_first)
        out[name] = {"temporary_bytes": compiled.memory_analysis().temp_size_in_bytes}
        if run:
            zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), arguments)
            jax.block_until_ready(compiled(*zeros))
            began = time.perf_counter()
            jax.block_until_ready(compiled(*zeros))
            out[name]["seconds"] = time.perf_counter() - began
    one, other = out["upsample_first"], out["score_first"]
    return {**out, "ratio": {key: one[key] / other[key] for key in one}}


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=read_size, default=(512, 512), help="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--embed_dim", type=int, default=128)
    parser.add_argument("--run", action="store_true", help="also run both steps once and time them")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/score_first.json"))
    args = parser.parse_args()
    setting = {k: v for k, v in vars(args).items() if k not in ("out", "run")}
    result = {
        "setting": setting,
        "entropy_terms": measure(partial(compile_entropies, args.size, args.batch, args.embed_dim), args.run),
        "step": measure(partial(compile_step, args.size, args.batch, args.width, args.embed_dim), args.run),
        **environment(),
    }
    write_json(args.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
