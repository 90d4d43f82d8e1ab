"""Run by sharding_test.py on eight forced host devices: one float64 step on one device and on all, as JSON."""

import json
from functools import partial

import jax
import numpy as np
import optax
from usss_jax.methods.usss.step import Objective, gradients, jit_train_step

from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import create_state
from usss_jax.methods.usss.label_embeddings import prototype_sums
from usss_jax.models.drn import DRN
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding

CLASSES = {"many": 7, "few": 3}
BATCH, SIZE, PASSES, DIM = 8, (24, 40), 2, 4


def batch():
    """Labeled and unlabeled images of both domains; labels hold ignored pixels, unevenly over the examples."""
    r = np.random.RandomState(0)
    out = {"labeled": {}, "unlabeled": {}}
    for domain, n in CLASSES.items():
        label = r.randint(0, n, (BATCH, *SIZE))
        label[: BATCH // 2, :8] = 255
        out["labeled"][domain] = {"image": r.rand(BATCH, *SIZE, 3), "label": label.astype(np.uint8)}
        out["unlabeled"][domain] = {"image": r.rand(PASSES, BATCH, *SIZE, 3)}
    return out


def embeddings_at_start():
    """Label embeddings of unit length."""
    r = np.random.RandomState(1)
    rows = {d: r.randn(n, DIM) for d, n in CLASSES.items()}
    return {d: e / np.linalg.norm(e, axis=1, keepdims=True) for d, e in rows.items()}


def float64_state(mesh, model, tx):
    """State at the start."""
    state, _ = create_state(model, tx, 0, mesh, embeddings_at_start())
    state = jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, state)
    return jax.device_put(state, sharding.replicated(mesh))


def one_step(mesh):
    """Loss, gradients, new batch statistics and prototype sums, as NumPy."""
    model = UniversalModel(DRN(blocks=(1, 1, 1, 1), width=0.125), CLASSES, DIM)
    tx = create_optimizer(create_schedule(0.01, 10))
    state = float64_state(mesh, model, tx)
    shardings = sharding.step_batch_shardings(mesh)
    data = sharding.put(batch(), shardings)
    objective = Objective(alpha=1.0, beta=0.5)

    compute = jax.jit(
        partial(gradients, model=model, objective=objective, unroll=True),
        in_shardings=(sharding.replicated(mesh), shardings),
        out_shardings=sharding.replicated(mesh),
    )
    grads, stats, scalars, _ = jax.device_get(compute(state, data))
    sums = {}
    for domain, n in CLASSES.items():
        pass_ = jax.jit(partial(prototype_sums, model=model, num_classes=n))
        sums[domain] = jax.device_get(pass_(state.variables, data["labeled"][domain]))
    out = {"grads": grads, "stats": stats, "scalars": scalars, "sums": sums}
    out["moved"] = moved_embeddings(mesh, model, tx)
    return out


def moved_embeddings(mesh, model, tx):
    """Label embeddings after three float64 steps with theta = 0.5."""
    state = float64_state(mesh, model, tx)
    classes = {d: tuple(range(n)) for d, n in CLASSES.items()}
    objective = Objective(theta=0.5)
    step = jit_train_step(mesh, model=model, tx=tx, objective=objective, has_unlabeled=True, label_classes=classes)
    data = sharding.put(batch(), sharding.step_batch_shardings(mesh))
    for _ in range(3):
        state, _ = step(state, data)
    return jax.device_get(state.label_embeddings)


def relative(one, many):
    """Largest difference over all leaves, each relative to its largest value."""
    errors = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-30)), one, many)
    return max(jax.tree.leaves(errors))


def compare():
    """Differences between one device and all."""
    one, eight = one_step(sharding.create_mesh(jax.devices()[:1])), one_step(sharding.create_mesh())
    start = embeddings_at_start()
    return {
        "devices": jax.device_count(),
        "scalars": max(relative(one["scalars"][name], eight["scalars"][name]) for name in one["scalars"]),
        "moved_embeddings": relative(one["moved"], eight["moved"]),
        "embeddings_moved_by": min(float(np.abs(one["moved"][d] - start[d]).max()) for d in start),
        "gradients": relative(one["grads"], eight["grads"]),
        "gradient_norm": float(optax.tree.norm(one["grads"])),
        "batch_statistics": relative(one["stats"], eight["stats"]),
        "counts_equal": all(
            np.array_equal(one["sums"][d]["count"], eight["sums"][d]["count"])
            and one["sums"][d]["count"].sum() == np.sum(batch()["labeled"][d]["label"] != 255)
            for d in CLASSES
        ),
        "prototype_sums": relative(one["sums"], eight["sums"]),
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(compare()))
