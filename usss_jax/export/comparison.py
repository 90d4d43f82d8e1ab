"""How far an exported network is from the network itself, on images."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from usss_jax.errors import InputError
from usss_jax.export.program import bound
from usss_jax.inference.batches import decode
from usss_jax.inference.inputs import Photograph, find_files, read_photographs
from usss_jax.inference.predictor import Predictor


def read_images(predictor: Predictor, inputs: str, out: pathlib.Path) -> list[Photograph]:
    """Find the images to compare on, and read their headers.

    Args:
      predictor: the network.
      inputs: an image, a folder or a pattern.
      out: folder of the export, which may not be among the inputs.

    Raises:
      InputError: if there are none, or one is damaged or above the limit up to which images are predicted whole.
    """
    photographs = read_photographs(find_files(inputs, out), predictor.model.encoder.stride)
    if large := [one.path for one in photographs if predictor.windows_of(one.size)]:
        raise InputError(f"--check={inputs}: {large[0]} is too large to be predicted whole; leave it out")
    return photographs


def compare(
    predictor: Predictor, exported: Callable, domains: Sequence[str], photographs: Sequence[Photograph]
) -> dict[str, Any]:
    """Run an exported network and the network on images, one at a time.

    Args:
      predictor: the network.
      exported: maps images uint8 [1, H, W, 3] to logits [1, H, W, classes] by domain.
      domains: its outputs.
      photographs: the images.

    Returns:
      {"images": their number, "largest_difference": {"logits", "probabilities"}, "equal_labels": share of the pixels,
      over all domains, where the largest logit is that of the label that `Predictor.predict` gives}.
    """
    logits = jax.jit(bound(predictor, predictor.model, domains))
    largest, equal, pixels = {"logits": 0.0, "probabilities": 0.0}, 0, 0
    for one in photographs:
        image = decode(one)
        got, want, labels = exported(image[None]), logits(image[None]), predictor.predict_all(image)
        for domain in domains:
            pair = np.stack([got[domain][0], want[domain][0]])
            for name, (mine, theirs) in (("logits", pair), ("probabilities", np.asarray(jax.nn.softmax(pair)))):
                largest[name] = max(largest[name], float(np.abs(mine - theirs).max()))
            equal += int((pair[0].argmax(-1) == labels[domain]).sum())
            pixels += labels[domain].size
    return {"images": len(photographs), "largest_difference": largest, "equal_labels": equal / pixels}
