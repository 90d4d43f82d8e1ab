"""Scoring before the upsampling and after it are one function; the compiled step then needs less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.score_first import CLASSES, compile_step, loss
from usss_jax.models.drn import DRN
from usss_jax.models.universal import UniversalModel


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bilinear", "drn"])
def test_both_orders_give_the_same_loss_and_gradients(mode):
    """In float64 to 1e-10, over every parameter."""
    with jax.enable_x64(True):
        model = UniversalModel(DRN(blocks=(1, 1, 1, 1), width=0.125), CLASSES, 6, upsample=mode)
        r = np.random.RandomState(0)
        variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
        variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
        batch = {
            "image": r.rand(2, 20, 36, 3),
            "unlabeled": r.rand(2, 20, 36, 3),
            "label": r.randint(0, 19, (2, 20, 36)),
        }
        embeddings = {d: r.randn(n, 6) for d, n in CLASSES.items()}
        out = {}
        for score_first in (True, False):
            step = jax.jit(jax.value_and_grad(partial(loss, model=model, score_first=score_first)))
            out[score_first] = step(variables["params"], variables["batch_stats"], batch, embeddings)
    np.testing.assert_allclose(out[True][0], out[False][0], rtol=1e-12)
    leaves = [jax.tree.leaves(out[order][1]) for order in (True, False)]
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * np.abs(other).max())


@pytest.mark.slow
def test_scoring_first_needs_less_temporary_memory():
    size, batch, width, embed_dim = (128, 128), 2, 0.25, 128
    memory = {}
    for score_first in (True, False):
        compiled, _ = compile_step(size, batch, width, embed_dim, score_first)
        memory[score_first] = compiled.memory_analysis().temp_size_in_bytes
    assert memory[True] < 0.7 * memory[False], memory
