"""Encoders that compile quickly, and comparisons of trees."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from usss_jax.models.drn_names import NAMES
from usss_jax.models.encoder import Encoder
from usss_jax.models.layers import Convolution, GroupedBatchNorm, apply_levels, scaled
from usss_jax.models.mobile import EfficientNetLite


class OneLayer(Encoder):
    """Stands in for the encoder where one with the layers of interest will do, since it compiles quickly."""

    out_channels = 6

    @nn.compact
    def __call__(self, x, train, groups):
        return nn.relu(GroupedBatchNorm(groups, name="bn")(Convolution(self.out_channels, 3, 8, name="conv")(x), train))


class ThreeLayers(Encoder):
    """Whole encoder by the interface of models/encoder.py, its tensors named as the first levels of DRN."""

    levels = 3
    finer_strides = (4,)
    tensor_names = NAMES

    @property
    def out_channels(self):
        return scaled(512, self.width)

    @nn.compact
    def __call__(self, x, train=False, groups=1):
        numerics = {"dtype": self.dtype, "precision": self.precision}

        def run(module, x, level, train):
            channels = scaled((64, 128, 512)[level], self.width)
            x = Convolution(channels, 3, 2, name=f"level{level}_conv", parent=module, **numerics)(x)
            return nn.relu(GroupedBatchNorm(groups, name=f"level{level}_bn", parent=module)(x, train))

        *_, fine, coarse = apply_levels(self, run, x, train)
        return (coarse, fine) if self.finer else coarse


# One block per level of EfficientNet-Lite0, with its channels.
ShortMobile = partial(EfficientNetLite, channels=(16, 24, 40, 80, 112, 192, 320), repeats=(1,) * 7)


def encode(model, params, stats, images):
    """Features of a training pass over one batch alone, and the new running statistics."""
    variables = {"params": params, "batch_stats": stats}
    features, new = model.apply(variables, images, train=True, method="encode", mutable=["batch_stats"])
    return features, new["batch_stats"]


def enlarge(x, size):
    """Half-pixel bilinear x8 with the edge repeated, cropped."""
    for axis, pixels in ((1, size[0]), (2, size[1])):
        cells = x.shape[axis]
        at = np.clip((np.arange(pixels) + 0.5) / 8 - 0.5, 0, cells - 1)
        low = at.astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        high = np.minimum(low + 1, cells - 1)
        x = jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
    return x


def assert_trees_close(got, want, tolerance=1e-10):
    got, want = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want))
    assert got.keys() == want.keys()
    for path, value in want.items():
        np.testing.assert_allclose(got[path], value, atol=tolerance, rtol=0, err_msg=jax.tree_util.keystr(path))


def largest(tree):
    """Largest absolute value of all leaves."""
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def difference(one, other):
    """Largest absolute difference of all leaves."""
    return largest(jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), one, other))
