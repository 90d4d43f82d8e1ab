"""What an exported network computes: scores at image size from images of any size, with its parameters inside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from usss_jax.inference.predictor import Predictor
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample

IMAGE = "image"  # name of the input


def scores_of(images, *, model: UniversalModel, variables: Mapping, domains: Sequence[str]) -> dict[str, jax.Array]:
    """Upsampled logits of several decoders: images uint8 [B, H, W, 3] -> float32 [B, H, W, classes] each."""
    features = model.apply(variables, images, method="encode")
    scores = {domain: model.apply(variables, features, domain, method="decode") for domain in domains}
    return {d: upsample(of, images.shape[1:3], model.stride, model.upsample) for d, of in scores.items()}


def bound(predictor: Predictor, model: UniversalModel, domains: Sequence[str]) -> Callable:
    """`scores_of` of a predictor's variables, a function of images alone; `model` may compute in another precision."""
    variables = jax.device_get(predictor.variables)
    return lambda images: scores_of(images, model=model, variables=variables, domains=domains)


def any_images(model: UniversalModel) -> jax.ShapeDtypeStruct:
    """Images of any number, height and width, of at least one cell: the argument to trace `bound` with."""
    cell = model.encoder.stride
    sides = jax.export.symbolic_shape("batch, height, width", constraints=(f"height >= {cell}", f"width >= {cell}"))
    return jax.ShapeDtypeStruct((*sides, 3), jnp.uint8)


def description(predictor: Predictor, domains: Sequence[str]) -> dict[str, Any]:
    """Describe input and outputs of an exported network as JSON."""
    cell = predictor.model.encoder.stride
    normalization = predictor.model.normalization
    outputs = {}
    for domain in domains:
        of = predictor.domains[domain]
        outputs[domain] = {
            "dtype": "float32",
            "shape": ["batch", "height", "width", len(of["classes"])],
            "values": "logits: the largest is the predicted class, their softmax the probabilities",
            "classes": of["classes"],
            "colors": of["colors"],
            "image_size_in_training": of["size"],
        }
    return {
        "checkpoint": f"{predictor.job.absolute().parent.name}/{predictor.checkpoint}",
        "input": {
            "name": IMAGE,
            "dtype": "uint8",
            "shape": ["batch", "height", "width", 3],
            "values": "RGB from 0 to 255",
            "smallest_height_and_width": cell,
            "normalization": normalization and {"mean": normalization[0], "std": normalization[1]},
            "normalized": "inside: (image / 255 - mean) / std",
        },
        "outputs": outputs,
    }
