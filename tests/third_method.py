"""A method that the engine has never heard of: supervised training with a penalty on confident predictions."""

from functools import partial

from usss_jax.config.field import NOT_NEGATIVE, Field, Method
from usss_jax.config.shared import SHARED
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.job import Pass
from usss_jax.engine.step import Computed
from usss_jax.methods.opening import claimed, open_run
from usss_jax.methods.run import run_plan
from usss_jax.methods.segmentation import fit
from usss_jax.methods.supervised import augmented, decoder_loss
from usss_jax.models.strips import mean_over_pixels
from usss_jax.models.universal import encode_groups
from usss_jax.objectives.losses import pixel_entropy

FIELDS = {"penalized.penalty": Field(0.1, NOT_NEGATIVE, "weight of the entropy, which is subtracted")}
METHOD = Method({"penalized": "Supervised training with a penalty"}, FIELDS, tuple(SHARED))


def loss(params, batch_stats, labeled, *, model, penalty):
    images = {d: batch["image"] for d, batch in labeled.items()}
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, images)
    total, scalars = 0.0, {}
    for d, batch in labeled.items():
        supervised = decoder_loss(model, params, features[d], d, batch["label"])
        logits = model.apply({"params": params}, features[d], d, method="decode")
        entropy = mean_over_pixels(pixel_entropy, logits, size=batch["label"].shape[1:], stride=model.stride)
        total += supervised - penalty * entropy
        scalars |= {f"supervised/{d}": supervised, f"entropy/{d}": entropy}
    return total, (stats, scalars, None)


def compute(state, batch, *, model, augment, seed, mesh, penalty):
    term = Term("penalized", partial(loss, model=model, penalty=penalty), augmented(state, batch, augment, seed))
    found = accumulate([term], state.params, state.batch_stats, mesh=mesh)
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars}, state.extra)


def plan(run, penalty):
    yield fit(run, "penalized", partial(compute, penalty=penalty))
    domains = run.workdir / "domains.txt"
    yield Pass(domains, lambda: domains.write_text(" ".join(run.pools)))


def run(config, workdir, devices):
    opened = open_run(config, workdir, devices)
    with claimed(opened):
        return run_plan(plan(opened, config.penalized.penalty))
