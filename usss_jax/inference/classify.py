"""The most likely class of every pixel and its probability: whole, by windows, or averaged over scales and flips.

Averaging over scales needs no probabilities at image size: the scores of every scale stay cells, and are enlarged,
turned into probabilities and averaged a few rows of pixels at a time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from usss_jax.data.decode import resize_image
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError
from usss_jax.inference.predictor import Predictor
from usss_jax.inference.windows import by_windows
from usss_jax.models.strips import STRIP_BYTES, map_pixels
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import resize_matrix, upsample_matrix
from usss_jax.parallel.sharding import batch_sharding, put, replicated

LARGEST_SCALE = 4.0


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How images are predicted for scores; `create_protocol` checks one.

    Attributes:
      size: (height, width) of the images.
      window, overlap: side of the windows of inference/windows.py and their overlap, in pixels; 0: whole images.
      scales: factors on the size, over which the probabilities are averaged.
      flip: whether they are also averaged with those of the mirrored images.
    """

    size: tuple[int, int]
    window: int = 0
    overlap: int = 0
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def averages(self) -> bool:
        """Whether an image is predicted more than once, or at another size."""
        return self.flip or self.scales != (1.0,)

    @property
    def scaled_sizes(self) -> tuple[tuple[int, int], ...]:
        """Size of the images at every scale."""
        return tuple((round(self.size[0] * s), round(self.size[1] * s)) for s in self.scales)

    def __str__(self):
        parts = [f"size {height_width(self.size)}"]
        if self.averages:
            parts.append(f"scales {', '.join(f'{scale:g}' for scale in self.scales)}")
            parts.append("flip" if self.flip else "no flip")
        how = f"windows of {self.window} overlapping by {self.overlap}" if self.window else "whole images"
        return ", ".join([*parts, how])


def create_protocol(
    predictor: Predictor, size: tuple[int, int], window: int | None, scales: Sequence[float], flip: bool
) -> Protocol:
    """Check a protocol for images of this size.

    Raises:
      InputError: for a window that is too small or not smaller than the images, or a scale that is not from 0 to 4 or
        makes images smaller than one cell of the network.
    """
    cell, side = predictor.model.encoder.stride, 0
    if window is not None:
        side = predictor.windows_of(size, window)
        if not side or side >= max(size):
            raise InputError(
                f"window={window}: images of {height_width(size)} fit into it, in whole cells of {cell} pixels; give a "
                "smaller one, or evaluate whole images"
            )
    if not scales or not all(0 < scale <= LARGEST_SCALE for scale in scales):
        given = ",".join(f"{scale:g}" for scale in scales)
        raise InputError(f"scales={given}: give factors above 0 and up to {LARGEST_SCALE:g}, such as 0.5,1,1.5")
    protocol = Protocol(size, side, predictor.overlap_of(side), tuple(map(float, scales)), flip)
    for scale, of in zip(protocol.scales, protocol.scaled_sizes, strict=True):
        if min(of) < cell:
            raise InputError(
                f"scales={scale:g}: makes images of {height_width(size)} smaller than one cell of the network, {cell} "
                "pixels; give a larger scale"
            )
    return protocol


def create_classifier(
    predictor: Predictor, decoder: str, classes: Sequence[int] | None, protocol: Protocol
) -> Callable[[np.ndarray], tuple[Any, Any]]:
    """Return classify(images uint8 [B, H, W, 3]) -> (classes uint8 [B, H, W], their probabilities float32 [B, H, W]).

    Args:
      predictor: the network; B must be a multiple of the number of its devices.
      decoder: whose classes are predicted.
      classes: the candidates among them, whose indices are predicted (see evaluation/evaluate.py); None: all.
      protocol: how; programs are compiled once per size.
    """
    mesh, model = predictor.mesh, predictor.model
    split = batch_sharding(mesh)
    shardings: dict[str, Any] = {"in_shardings": (replicated(mesh), split), "out_shardings": split}
    bound: dict[str, Any] = {"domain": decoder, "model": model, "classes": None if classes is None else tuple(classes)}
    at_once = partial(jax.jit(partial(most_likely, **bound), **shardings), predictor.variables)
    score = partial(jax.jit(partial(scores_of, **bound), **shardings), predictor.variables)
    enlarge: dict[str, Any] = {"protocol": protocol, "stride": model.stride, "mode": model.upsample}
    average = jax.jit(partial(most_likely_on_average, **enlarge), in_shardings=split, out_shardings=split)

    def place(images):
        return put({"images": images}, {"images": split})["images"]

    def classify(images):
        if not protocol.averages:
            return at_once(place(images))
        scores = []
        for size in protocol.scaled_sizes:
            scaled = np.stack([resize_image(image, size) for image in images])
            both = [scaled, scaled[:, :, ::-1]] if protocol.flip else [scaled]
            scores.append([score(place(np.ascontiguousarray(of))) for of in both])
        return average(scores)

    if not protocol.window:
        return classify
    at_a_time = predictor.windows_at_once(protocol.window)
    return lambda images: by_windows(
        lambda crops: jax.device_get(classify(crops)), images, protocol.window, protocol.overlap, at_a_time
    )


def scores_of(variables, images, *, domain: str, model: UniversalModel, classes: Sequence[int] | None):
    """Scores of the candidates at every cell, float32 [B, h, w, C]."""
    features = model.apply(variables, images, method="encode")
    scores: Any = model.apply(variables, features, domain, method="decode")
    return scores if classes is None else scores[..., np.asarray(classes)]


def most_likely(variables, images, *, domain: str, model: UniversalModel, classes: Sequence[int] | None):
    """Arg max of the enlarged scores, uint8 [B, H, W], and its softmax, float32 [B, H, W]."""
    scores = scores_of(variables, images, domain=domain, model=model, classes=classes)

    def most(scores):
        return jnp.argmax(scores, -1).astype(jnp.uint8), 1 / jnp.exp(scores - scores.max(-1, keepdims=True)).sum(-1)

    return map_pixels(most, scores, size=images.shape[1:3], stride=model.stride, mode=model.upsample)


def most_likely_on_average(scores, *, protocol: Protocol, stride: int, mode: str):
    """The same of the mean probabilities over scales and flips.

    Args:
      scores: for every scale, those of the image [B, h, w, C] and, with flip, of the mirrored image.
      protocol: size, scales and flip.
      stride, mode: see `upsample`.
    """
    (height, width), maps = protocol.size, []
    for size, of_scale in zip(protocol.scaled_sizes, scores, strict=True):
        to_cells = [
            resize_matrix(n, scaled) @ upsample_matrix(scaled, stride, mode)
            for n, scaled in zip(protocol.size, size, strict=True)
        ]
        maps += [(of_scale[0], *to_cells)] + [(of, to_cells[0], to_cells[1][::-1]) for of in of_scale[1:]]
    images, _, _, channels = scores[0][0].shape
    rows = min(height, max(1, round(STRIP_BYTES / (images * width * channels * 4))))
    count = -(-height // rows)

    def strip(parts):
        total = 0
        for (of, _, along), down in zip(maps, parts, strict=True):
            # Full precision: see models/upsample.py.
            of = jnp.einsum("Hh,bhwc->bHwc", down, of, precision=lax.Precision.HIGHEST)
            of = jnp.einsum("Ww,bHwc->bHWc", along.astype(np.float32), of, precision=lax.Precision.HIGHEST)
            total = total + jax.nn.softmax(of)
        return jnp.argmax(total, -1).astype(jnp.uint8), total.max(-1) / len(maps)

    down = [np.pad(down, [(0, count * rows - height), (0, 0)]).astype(np.float32) for _, down, _ in maps]
    found = lax.map(strip, [one.reshape(count, rows, -1) for one in down])
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1).reshape(images, -1, width)[:, :height], found)
