"""Label maps of images from the folder of a finished job; neither data set nor config file is needed."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import predict
from usss_jax.local_files import local_path
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding
from usss_jax.runs.finished import open_job


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A trained network; create it with `load`.

    Attributes:
      model: the network.
      variables: {"params", "batch_stats"} of its best checkpoint.
      domains: for each decoder {"classes": names in the order of the labels, "colors": RGB of each, "size": [height,
        width] of the images in training and evaluation}.
    """

    model: UniversalModel
    variables: Mapping[str, Any]
    domains: Mapping[str, Mapping[str, Any]]

    @functools.cached_property
    def _programs(self) -> dict[str, Callable]:
        return {d: jax.jit(partial(predict, domain=d, model=self.model)) for d in self.domains}

    def predict(self, image: np.ndarray, domain: str | None = None) -> np.ndarray:
        """Predict the class of every pixel.

        The image is not resized; the scores of evaluation hold for images of the size in `domains`. The network is
        compiled once per shape.

        Args:
          image: RGB, uint8 [H, W, 3], or a batch [B, H, W, 3].
          domain: name of the decoder; optional if there is only one.

        Returns:
          Indices into `domains[domain]["classes"]`, uint8 [H, W] or [B, H, W].

        Raises:
          InputError: for an unknown domain, or an image of another shape or dtype, or smaller than one cell.

        >>> import numpy as np, usss_jax
        >>> predictor = usss_jax.load("runs/demo/full")
        >>> labels = predictor.predict(np.zeros((48, 64, 3), np.uint8), domain="city_street")
        >>> labels.shape, str(labels.dtype)
        ((48, 64), 'uint8')
        """
        if domain is None and len(self.domains) == 1:
            domain = next(iter(self.domains))
        if domain is None or domain not in self.domains:
            raise InputError(f"domain={domain}: the network has decoders for {', '.join(self.domains)}; give one")
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3 or not image.size:
            raise InputError(f"image: {image.dtype} {list(image.shape)}; give RGB uint8 [H, W, 3] or [B, H, W, 3]")
        if min(image.shape[-3:-1]) < self.model.encoder.stride:
            raise InputError(f"image: {list(image.shape)} is smaller than one cell, {self.model.encoder.stride} pixels")
        labels = self._programs[domain](self.variables, image if image.ndim == 4 else image[None])
        labels = np.asarray(labels).astype(np.uint8)
        return labels if image.ndim == 4 else labels[0]


def load(folder: str | pathlib.Path) -> Predictor:
    """Load the best checkpoint of a finished job, on one device.

    Args:
      folder: folder of the job, such as RUN/full; it may have been moved since training.

    Raises:
      InputError: if the folder is not a finished job, or its checkpoint is damaged.

    >>> import usss_jax
    >>> predictor = usss_jax.load("runs/demo/full")
    >>> predictor.domains["city_street"]["classes"][:3]
    ['road', 'sidewalk', 'building']
    """
    path = local_path(str(folder), "folder")
    job = open_job(path)
    model, variables, _ = job.restore(sharding.create_mesh(jax.local_devices()[:1]))
    return Predictor(model, variables, job.network["decoders"])
