"""Run by sharding_test.py with eight forced host devices: float64 steps on one device and on all, as JSON."""

import dataclasses
import json
import math
import re
from functools import partial

import jax
import numpy as np
from tiny_models import OneLayer, ThreeLayers

from usss_jax.config import default_config
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import accumulate
from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import create_state
from usss_jax.engine.step import jit_step
from usss_jax.methods import hung
from usss_jax.methods.usss import average, consistency, terms
from usss_jax.methods.usss.label_embeddings import prototype_sums
from usss_jax.methods.usss.teaching import Similarity, create_teaching
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding

CLASSES = {"many": 7, "few": 3}
BATCH, SIZE, PASSES, DIM = 8, (24, 40), 2, 4
USSS = dataclasses.replace(terms.create_objective(default_config().usss), beta=0.5, theta=0.5)
_PAPER = hung.create_objective(default_config())
HUNG = dataclasses.replace(
    _PAPER,
    adversarial=0.5,
    adversarial_unlabeled=0.3,
    semi=0.4,
    threshold=0.5,
    semi_start=0,
    opponent=dataclasses.replace(_PAPER.opponent, steps=10, lr=0.001, width=1 / 16),
)
TX = create_optimizer(create_schedule(0.01, 10))


def random_batch(domains, passes=PASSES, validity=False):
    """Labeled and unlabeled images; labels hold ignored pixels, and images padding, unevenly over the examples."""
    r = np.random.RandomState(0)
    out = {"labeled": {}, "unlabeled": {}}
    for domain in domains:
        label = r.randint(0, CLASSES[domain], (BATCH, *SIZE))
        label[: BATCH // 2, :8] = 255
        out["labeled"][domain] = {"image": r.rand(BATCH, *SIZE, 3), "label": label.astype(np.uint8)}
        out["unlabeled"][domain] = {"image": r.rand(passes, BATCH, *SIZE, 3)}
        if validity:
            valid = np.ones((passes, BATCH, *SIZE), np.uint8)
            valid[:, : BATCH // 4, 8:] = 0
            out["unlabeled"][domain]["valid"] = valid
    return out


def embeddings_at_start():
    """Label embeddings of unit length."""
    r = np.random.RandomState(1)
    rows = {d: r.randn(n, DIM) for d, n in CLASSES.items()}
    return {d: e / np.linalg.norm(e, axis=1, keepdims=True) for d, e in rows.items()}


def judge_at_start():
    """Parameters of D that judge pixels differently, about as often true as false."""
    r, unsure = np.random.RandomState(1), np.full((1, *SIZE, CLASSES["many"]), 1 / CLASSES["many"])
    shapes = jax.eval_shape(HUNG.opponent.network.init, jax.random.key(0), unsure)["params"]
    judge = jax.tree.map(lambda a: r.randn(*a.shape) * (0.2 if len(a.shape) == 4 else 0.1), shapes)
    judge["conv5"]["bias"] -= float(HUNG.opponent.network.apply({"params": judge}, unsure).mean())
    return judge


def train(mesh, model, compute, extra, steps, begin=lambda state: state, validity=False):
    """States after the first and the last step, scalars of each step; all as NumPy."""
    state, _ = create_state(model, TX, 0, mesh, extra)
    state = jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, state)
    state = begin(jax.device_put(state, sharding.replicated(mesh)))
    shardings = sharding.step_batch_shardings(mesh)
    compute = partial(compute, model=model, augment=DeviceAugment(), seed=0, mesh=mesh)
    step = jit_step(mesh, compute=compute, tx=TX, batch_shardings=shardings)
    data, states, told = sharding.put(random_batch(model.num_classes, validity=validity), shardings), [], []
    for _ in range(steps):
        state, scalars = step(state, data)
        states.append(jax.device_get(state))
        told.append({k: v for k, v in jax.device_get(scalars).items() if not k.startswith("encoder_grad_norm/")})
    return states[0], states[-1], told


def usss(mesh):
    """Steps that move the label embeddings too, and the sums that class prototypes are made of."""
    model = UniversalModel(ThreeLayers(width=1 / 16, finer=4), CLASSES, DIM, lateral_channels=8)
    compute = partial(terms.compute, objective=USSS, label_classes={d: tuple(range(n)) for d, n in CLASSES.items()})
    terms.accumulate = partial(accumulate, unroll=False)  # as on GPUs
    first, last, told = train(mesh, model, compute, {"label_embeddings": embeddings_at_start()}, 3)
    data = sharding.put(random_batch(CLASSES)["labeled"], dict.fromkeys(CLASSES, sharding.batch_sharding(mesh)))
    sums = {
        d: jax.device_get(jax.jit(partial(prototype_sums, model=model, num_classes=n))(last.variables, data[d]))
        for d, n in CLASSES.items()
    }
    return first, last, told, sums


def exchanged_bytes(mesh, passes):
    """Bytes of all all-reduces in the compiled step with so many unlabeled micro-batches, and bytes of the kernels."""
    model = UniversalModel(ThreeLayers(width=1 / 4, finer=4), CLASSES, DIM, lateral_channels=8)
    extra = {"label_embeddings": embeddings_at_start()}
    label_classes = {d: tuple(range(n)) for d, n in CLASSES.items()}
    terms.accumulate = partial(accumulate, unroll=True)  # in a loop, the text has an all-reduce once
    compute = partial(terms.compute, objective=USSS, label_classes=label_classes)
    compute = partial(compute, model=model, augment=DeviceAugment(), seed=0, mesh=mesh)
    shardings = sharding.step_batch_shardings(mesh)
    state, _ = create_state(model, TX, 0, mesh, extra)
    data = sharding.put(random_batch(CLASSES, passes), shardings)
    step = jit_step(mesh, state, compute=compute, tx=TX, batch_shardings=shardings)
    text = step.lower(state, data).compile().as_text()
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    shapes = [shape for result in results for shape in re.findall(r"[fs](\d+)\[([\d,]*)\]", result)]
    total = sum(int(bits) // 8 * math.prod(int(n) for n in sides.split(",") if n) for bits, sides in shapes)
    return total, sum(leaf.nbytes for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1)


def adversarial(mesh):
    """Steps of a segmentation network and its discriminator."""
    model = UniversalModel(OneLayer(), {"many": CLASSES["many"]})
    judge = judge_at_start()
    extra = {"discriminator": judge, "discriminator_opt_state": HUNG.opponent.optimizer.init(judge)}
    return train(mesh, model, partial(hung.compute, objective=HUNG), extra, 2)


def taught(mesh):
    """Steps with a teacher, all of its options on but a second view."""
    fields = {"targets": "soft", "threshold": 0.5, "threshold_kind": "adaptive", "cross_weight": 0.5}
    config = default_config()
    fields |= {"across": "unlabeled", "similarity_weight": 0.5}
    config.teacher.update({**fields, "threshold_decay": 0.0})
    teaching = create_teaching(config, list(CLASSES))
    model = UniversalModel(OneLayer(), CLASSES, DIM)
    rows, objective = embeddings_at_start(), dataclasses.replace(USSS, embedding_supervision=0.5)
    similarity = Similarity(objective, {d: tuple(range(n)) for d, n in CLASSES.items()}, rows)
    names = {d: list(map(str, range(n))) for d, n in CLASSES.items()}
    extra = {"confidence": {d: np.full(n, 1 / n) for d, n in CLASSES.items()}, "label_embeddings": rows}
    consistency.accumulate = partial(accumulate, unroll=False)  # as on GPUs
    consistency.on_cpu = lambda mesh: False
    compute = partial(consistency.compute, teaching=teaching, class_names=names, similarity=similarity)
    return train(mesh, model, compute, extra, 3, average.begin, validity=True)


def relative(one, many):
    """Largest difference over all leaves, each relative to its largest value."""
    errors = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-30)), one, many)
    return max(jax.tree.leaves(errors))


def differences(one, eight):
    """Of states (the optimiser's momentum after the first step is the gradient), scalars and sums."""
    names = ("first_state", "last_state", "scalars", "prototype_sums")
    return dict(zip(names, map(relative, one, eight), strict=False))


def compare():
    """Differences between one device and all, and what shows that there was something to differ in."""
    one, eight = sharding.create_mesh(jax.devices()[:1]), sharding.create_mesh()
    u, a, t = ([run(mesh) for mesh in (one, eight)] for run in (usss, adversarial, taught))
    start, moved = embeddings_at_start(), u[0][1].extra["label_embeddings"]
    counts = [{d: of["count"] for d, of in run[3].items()} for run in u]
    labels = random_batch(CLASSES)["labeled"]
    return {
        "devices": jax.device_count(),
        "usss": differences(*u),
        "hung": differences(*a),
        "exchanged": exchanged_bytes(eight, 3),
        "teacher": differences(*t),
        "kept": float(t[0][2][-1]["kept/many"]),
        "gradient_norm": float(u[0][2][0]["grad_norm"]),
        "embeddings_moved_by": min(float(np.abs(moved[d] - start[d]).max()) for d in start),
        "semi_share": float(a[0][2][0]["semi_share/many"]),
        "counts_equal": all(
            np.array_equal(counts[0][d], counts[1][d]) and counts[0][d].sum() == (labels[d]["label"] != 255).sum()
            for d in CLASSES
        ),
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(compare()))
