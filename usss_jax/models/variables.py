"""Random variables of a model, the same on one device, on several, and in several processes."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from usss_jax.models.universal import UniversalModel

DUMMY_IMAGES = np.zeros((1, 8, 8, 3), np.float32)  # parameters do not depend on the size of the images


def random_variables(model: nn.Module, bits) -> dict:
    """Initialise a model of images from `seed_bits`; "batch_stats" is empty for an encoder without batch statistics."""
    return {"params": {}, "batch_stats": {}, **seeded(model)(bits, DUMMY_IMAGES)}


def random_heads(model: UniversalModel, bits) -> dict:
    """The heads' part of `random_variables`."""
    features = np.zeros((1, 1, 1, model.out_channels), np.float32)
    return {"params": {}, "batch_stats": {}, **seeded(model, method="score")(bits, features)}


def abstract_variables(model: nn.Module) -> dict:
    """Shapes and dtypes of `random_variables`."""
    return jax.eval_shape(lambda bits: random_variables(model, bits), seed_bits(0))


def seed_bits(seed: int, *fold: int) -> np.ndarray:
    """Key of the "rbg" generator as NumPy bits, which jit accepts in several processes.

    "rbg", because dozens of "threefry" samplers of different shapes take long to compile.

    >>> seed_bits(7).tolist(), (seed_bits(7, 1) == seed_bits(7, 2)).all()
    ([0, 7, 0, 7], np.False_)
    """
    key = jax.random.key(seed, impl="rbg")
    for value in fold:
        key = jax.random.fold_in(key, value)
    return np.asarray(jax.random.key_data(key))


def seeded(module: nn.Module, method: str | None = None) -> Callable:
    """The module's `init`, taking the bits of `seed_bits` instead of a key."""
    return lambda bits, *args: module.init(jax.random.wrap_key_data(bits, impl="rbg"), *args, method=method)
