"""Agreement with the reference implementation: numbers that it recorded for weights and inputs anyone can regenerate.

Every `*.npz` in $USSS_PARITY_DIR (default: tests/fixtures) is checked, every recorded key of it. Rules for weights and
inputs: tests/fixtures/README.md.
"""

import json
import math
import os
import pathlib
import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models import pretrained, universal
from usss_jax.models.strips import mean_over_pixels
from usss_jax.models.upsample import upsample
from usss_jax.objectives.entropy import entropy_terms, similarities
from usss_jax.objectives.losses import cross_entropy

FOLDER = pathlib.Path(os.environ.get("USSS_PARITY_DIR", pathlib.Path(__file__).parent / "fixtures"))
FILES = sorted(FOLDER.glob("*.npz"))
ARRAY_TOLERANCE = 1e-6  # relative to the array's largest value
SCALAR_TOLERANCE = 1e-8  # relative


def test_there_is_a_fixture():
    assert FILES, f"no *.npz in {FOLDER}"


def reference_tensor(name, shape):
    """One tensor of the reference's state dict, float32 arithmetic with Python-float constants."""
    z = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.startswith(("up.", "en_up")):
        return None  # the fixed bilinear kernel, which is no parameter of ours
    if name.endswith("running_mean"):
        return 0.1 * z
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(z)
    if len(shape) == 1:
        return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
    return z * math.sqrt(2 / math.prod(shape[1:]))


def inputs(meta):
    """Images x and u [B, H, W, 3], labels [B, H, W] and label embeddings [n - 1, d] per domain, in float64."""
    r = np.random.RandomState(meta["seed"])
    shape = (meta["B"], 3, meta["H"], meta["W"])
    x, u = (r.rand(*shape).astype(np.float32).transpose(0, 2, 3, 1).astype(np.float64) for _ in range(2))
    sizes = meta["num_labels_with_void"]
    labels = {d: r.randint(0, n, (meta["B"], meta["H"], meta["W"])) for d, n in sizes.items()}
    embeddings = {}
    for domain, n in sizes.items():
        e = r.standard_normal((n, meta["embed_dim"])).astype(np.float32).astype(np.float64)
        e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
        embeddings[domain] = e[:-1]
    return x, u, labels, embeddings


def ours(meta):
    """Every number that a fixture records, computed by this project."""
    x, u, labels, embeddings = inputs(meta)
    sizes = meta["num_labels_with_void"]
    image_size = (meta["H"], meta["W"])
    encoder = meta["arch"].replace("_", "")  # resnet_18 -> resnet18
    model = universal.create_model(encoder, sizes, embed_dim=meta["embed_dim"], normalize="none")
    state_dict = {name: reference_tensor(name, shape) for name, shape in meta["state"].items()}
    state_dict = {name: t for name, t in state_dict.items() if t is not None}
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables, report = pretrained.from_state_dict(state_dict, shapes, list(sizes), names=model.encoder.tensor_names)
    assert not report.missing, report.missing
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)

    def up(low):
        return upsample(low, image_size, model.stride, "drn")

    mean = partial(mean_over_pixels, size=image_size, stride=model.stride, mode="drn")

    @jax.jit
    def evaluate(variables, x):
        features = model.apply(variables, x, method="encode")
        out = {"encoder": features[:, ::2, ::3, ::8]}
        for domain in sizes:
            logits = up(model.apply(variables, features, domain, method="decode"))
            out[f"eval_logits_{domain}"] = logits[:, ::5, ::7]
        out["eval_embedding"] = up(model.apply(variables, features, method="embed"))[:, ::9, ::11]
        return out

    def features_of(params, images):
        encoded, _ = universal.encode_groups(model, {**variables, "params": params}, {"any": images})
        return encoded["any"]

    def chosen(values, weights):
        """The one of `values` by name whose weight is 1, and all of them: one program gives every gradient."""
        return sum(weights[name] * value for name, value in values.items()), values

    def supervised(params, x, labels, weights):
        features, losses = features_of(params, x), {}
        for domain in sizes:
            logits = up(model.apply({"params": params}, features, domain, method="decode"))
            void = sizes[domain] - 1  # the reference ignores its last class
            losses[f"sup_{domain}"] = cross_entropy(logits, jnp.where(labels[domain] == void, 255, labels[domain]))
        return chosen(losses, weights)

    def entropy(params, u, embeddings, weights):
        embedding, losses = model.apply({"params": params}, features_of(params, u), method="embed"), {}
        scores = {d: similarities(embedding, of_labels) for d, of_labels in embeddings.items()}
        for domain in sizes:
            within, cross, _ = entropy_terms(scores, domain, mean)
            losses |= {f"ent_within_{domain}": within, f"ent_cross_{domain}": cross}
        return chosen(losses, weights)

    out, params = dict(evaluate(variables, x)), variables["params"]
    kinds = {
        "sup": (supervised, x, labels),
        "ent_within": (entropy, u, embeddings),
        "ent_cross": (entropy, u, embeddings),
    }
    programs = {function: jax.jit(jax.value_and_grad(function, has_aux=True)) for function in (supervised, entropy)}
    for kind, (function, *data) in kinds.items():
        for domain in sizes:
            names = [f"{k}_{d}" for k, (f, *_) in kinds.items() if f is function for d in sizes]
            weights = {name: float(name == f"{kind}_{domain}") for name in names}
            (_, losses), grads = programs[function](params, *data, weights)
            out[f"{kind}_loss_{domain}" if kind == "sup" else f"{kind}_{domain}"] = losses[f"{kind}_{domain}"]
            out[f"{kind}_gradnorm_{domain}"] = norm(grads)
            if kind == "sup":
                out[f"sup_grad_stem_{domain}"] = grads["encoder"]["level0_conv"]["kernel"]
            else:
                out[f"{kind}_grad_enmap_{domain}"] = grads["embedding"]["kernel"][0, 0, ::8, ::8]
    return out


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_agrees_with_the_reference(path):
    with np.load(path, allow_pickle=False) as recorded, jax.enable_x64(True):
        meta = json.loads(str(recorded["meta"]))
        computed = ours(meta)
        keys = [key for key in recorded.files if key != "meta"]
        assert keys
        worst = {}
        for key in keys:
            assert key in computed, f"{path.name}: recorded key {key} is not computed"
            want, got = recorded[key], np.asarray(computed[key])
            assert got.shape == want.shape, key
            worst[key] = np.max(np.abs(got - want)) / np.max(np.abs(want))
        print({key: f"{error:.1e}" for key, error in worst.items()})
        for key, error in worst.items():
            assert error <= (ARRAY_TOLERANCE if recorded[key].ndim else SCALAR_TOLERANCE), (key, error)
