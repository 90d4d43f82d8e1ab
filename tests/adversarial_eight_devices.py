"""Run by adversarial_test.py with eight forced host devices: two steps on one device and on all, as JSON."""

import json

import flax.linen as nn
import jax
import numpy as np
from usss_jax.methods.hung.state import Adversarial, create_adversarial_state
from usss_jax.methods.hung.step import jit_adversarial_step

from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.models.layers import Convolution, GroupedBatchNorm
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding

BATCH, SIZE, PASSES, STEPS = 8, (24, 43), 2, 10
OBJECTIVE = Adversarial(0.5, 0.3, 0.4, threshold=0.5, semi_start=0, lr=0.001, width=1 / 16)


class OneLayer(nn.Module):
    """Stands in for the encoder, since it compiles quickly; sharding_test.py has the real one."""

    stride = 8

    @nn.compact
    def __call__(self, x, train, groups):
        return nn.relu(GroupedBatchNorm(groups, name="bn")(Convolution(6, 3, 8, name="conv")(x), train))


def batch():
    """Images and labels of one domain; ignored pixels are spread unevenly over the examples."""
    r = np.random.RandomState(0)
    label = r.randint(0, 5, (BATCH, *SIZE))
    label[: BATCH // 2, :8] = 255
    return {
        "labeled": {"city": {"image": r.rand(BATCH, *SIZE, 3), "label": label.astype(np.uint8)}},
        "unlabeled": {"city": {"image": r.rand(PASSES, BATCH, *SIZE, 3)}},
    }


def two_steps(mesh):
    """State after one step as NumPy, scalars of both."""
    model = UniversalModel(OneLayer(), {"city": 5})
    tx = create_optimizer(create_schedule(0.01, STEPS))
    state, _ = create_adversarial_state(model, tx, 0, mesh, objective=OBJECTIVE, steps=STEPS)
    r = np.random.RandomState(1)
    judge = jax.tree.map(lambda a: r.randn(*a.shape) * (0.2 if a.ndim == 4 else 0.1), state.discriminator)
    unsure = np.full((1, *SIZE, 5), 1 / 5)
    judge["conv5"]["bias"] -= float(OBJECTIVE.discriminator.apply({"params": judge}, unsure).mean())
    state = jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, state)
    state = jax.device_put(state.replace(discriminator=judge), sharding.replicated(mesh))
    data = sharding.put(batch(), sharding.step_batch_shardings(mesh))
    step = jit_adversarial_step(mesh, model=model, tx=tx, objective=OBJECTIVE, steps=STEPS)
    state, first = step(state, data)
    after = jax.device_get({k: getattr(state, k) for k in ("params", "discriminator", "batch_stats")})
    _, second = step(state, data)
    return after, jax.device_get(first), jax.device_get(second)


def relative(one, many):
    """Largest difference over all leaves, each relative to its largest value."""
    errors = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-30)), one, many)
    return max(jax.tree.leaves(errors))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    one, eight = two_steps(sharding.create_mesh(jax.devices()[:1])), two_steps(sharding.create_mesh())
    result = {part: relative(one[0][part], eight[0][part]) for part in one[0]}
    result |= {"scalars": relative(one[1], eight[1]), "second_step": relative(one[2], eight[2])}
    result |= {"devices": jax.device_count(), "semi_share": float(one[1]["semi_share/city"])}
    print(json.dumps(result))
