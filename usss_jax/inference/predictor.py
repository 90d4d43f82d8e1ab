"""Label maps of images from the folder of a finished run; neither data set nor config file is needed."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import predict_from
from usss_jax.inference.windows import by_windows
from usss_jax.local_files import local_path
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample
from usss_jax.parallel import sharding
from usss_jax.runs import hub
from usss_jax.runs.finished import find_job, open_job
from usss_jax.runs.networks import load_best

WHOLE_PIXELS = 2**21  # 1024x2048: larger images are predicted by windows
WINDOW = 1024


def labels_of(variables, images, domains: Sequence[str], *, model: UniversalModel) -> dict[str, jax.Array]:
    """Predict images uint8 [B, H, W, 3] with several decoders, after one pass of the encoder: uint8 [B, H, W] each."""
    features = model.apply(variables, images, method="encode")
    of = partial(predict_from, variables, features, model=model, size=images.shape[1:3])
    return {domain: of(domain=domain).astype(jnp.uint8) for domain in domains}


def probabilities_of(variables, images, domains: Sequence[str], *, model: UniversalModel) -> dict[str, jax.Array]:
    """Class probabilities of every domain at image size: float32 [B, H, W, classes] each."""
    features = model.apply(variables, images, method="encode")
    scores = {domain: model.apply(variables, features, domain, method="decode") for domain in domains}
    enlarge = partial(upsample, size=images.shape[1:3], stride=model.stride, mode=model.upsample)
    return {domain: jax.nn.softmax(enlarge(of)) for domain, of in scores.items()}


def features_of(variables, images, domains: Sequence[str], *, model: UniversalModel) -> Any:
    """Features of the encoder, float32 [B, h, w, C]; without decoders."""
    return model.apply(variables, images, method="encode")


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A trained network; create it with `load`.

    Images keep their size, and the network is compiled once per size and batch size. Images are not padded to common
    sizes: convolutions see what lies beyond the border, so that padding would change the labels near it. Images above
    1024x2048 pixels are predicted by windows of 1024x1024 that overlap by a quarter, and share one program.

    Attributes:
      model: the network.
      variables: {"params", "batch_stats"} of its best checkpoint.
      network: its description (runs/networks.py).
      job: folder of the job that trained it.
      checkpoint: its checkpoint, such as full/best/2000.
      mesh: devices, which share the images of a batch.
    """

    model: UniversalModel
    variables: Mapping[str, Any]
    network: Mapping[str, Any]
    job: pathlib.Path
    checkpoint: str
    mesh: Mesh

    @property
    def domains(self) -> Mapping[str, Mapping[str, Any]]:
        """Of each decoder {"classes", "colors", "size"}.

        The names of the classes in the order of the labels, their RGB colours, and [height, width] of the images in
        training and evaluation.
        """
        return self.network["decoders"]

    def predict(self, image: np.ndarray, domain: str | None = None, *, window: int | None = None) -> np.ndarray:
        """Predict the class of every pixel.

        The image is not resized; the scores of evaluation hold for images of the size in `domains`.

        Args:
          image: RGB, uint8 [H, W, 3], or a batch [B, H, W, 3].
          domain: name of the decoder; optional if there is only one.
          window: side of the windows, in pixels, for images with a longer side; at least four cells of the network, and
            rounded up to whole cells. None: 1024 for images above 1024x2048 pixels, which are else predicted whole.

        Returns:
          Indices into `domains[domain]["classes"]`, uint8 [H, W] or [B, H, W].

        Raises:
          InputError: for an unknown domain, a window that is too small, or an image of another shape or dtype, or
            smaller than one cell.

        >>> import numpy as np, usss_jax
        >>> predictor = usss_jax.load("runs/demo/full")
        >>> labels = predictor.predict(np.zeros((48, 64, 3), np.uint8), domain="city_street")
        >>> labels.shape, str(labels.dtype)
        ((48, 64), 'uint8')
        """
        domain = self._decoder(domain)
        return self._of_one_or_more("labels", image, [domain], window)[domain]

    def predict_all(self, image: np.ndarray, *, window: int | None = None) -> dict[str, np.ndarray]:
        """Predict the classes of every domain, after one pass of the encoder: {domain: labels as of `predict`}.

        >>> import numpy as np, usss_jax
        >>> sorted(usss_jax.load("runs/demo/full").predict_all(np.zeros((48, 64, 3), np.uint8)))
        ['city_street', 'town_street']
        """
        return self._of_one_or_more("labels", image, list(self.domains), window)

    def probabilities(self, image: np.ndarray, domain: str | None = None, *, window: int | None = None) -> np.ndarray:
        """Compute the probability of every class at every pixel, the softmax of the upsampled scores.

        Args and errors are those of `predict`.

        Returns:
          float32 [H, W, classes] or [B, H, W, classes].

        >>> import numpy as np, usss_jax
        >>> predictor = usss_jax.load("runs/demo/full")
        >>> probabilities = predictor.probabilities(np.zeros((48, 64, 3), np.uint8), domain="city_street")
        >>> probabilities.shape[:2], bool(np.allclose(probabilities.sum(-1), 1))
        ((48, 64), True)
        """
        domain = self._decoder(domain)
        return self._of_one_or_more("probabilities", image, [domain], window)[domain]

    def features(self, image: np.ndarray) -> np.ndarray:
        """Compute the features that all decoders share, of whole images whatever their size.

        Args:
          image: RGB, uint8 [H, W, 3], or a batch [B, H, W, 3].

        Returns:
          float32 [ceil(H / stride), ceil(W / stride), C] or [B, ...], where stride is `model.stride`.

        Raises:
          InputError: for an image of another shape or dtype, or smaller than one cell.

        >>> import numpy as np, usss_jax
        >>> predictor = usss_jax.load("runs/demo/full")
        >>> predictor.features(np.zeros((48, 64, 3), np.uint8)).shape[-1] == predictor.model.out_channels
        True
        """
        features = self._call("features", self._checked(image), [])
        return features if np.ndim(image) == 4 else features[0]

    def windows_of(self, size: tuple[int, int], window: int | None = None) -> int:
        """Side of the windows by which an image of size (height, width) is predicted; 0: it is predicted whole.

        Raises:
          InputError: if `window` is below four cells of the network.
        """
        cell = self.model.encoder.stride
        if window is not None and window < 4 * cell:
            raise InputError(f"window={window}: give at least {4 * cell} pixels, four cells of this network")
        if max(size) <= window if window else size[0] * size[1] <= WHOLE_PIXELS:
            return 0
        return -(-(window or WINDOW) // cell) * cell

    def overlap_of(self, side: int) -> int:
        """Overlap of windows of this side: a quarter, in whole cells."""
        return side // 4 // self.model.encoder.stride * self.model.encoder.stride

    def windows_at_once(self, side: int) -> int:
        """Number of windows of this side that are predicted together."""
        return min(4, max(1, WHOLE_PIXELS // side**2)) * self.mesh.size

    def _of_one_or_more(self, kind, image, domains, window):
        images = self._checked(image)
        side = self.windows_of(images.shape[1:3], window)
        if side:
            run = partial(self._call, kind, domains=domains)
            results = by_windows(run, images, side, self.overlap_of(side), self.windows_at_once(side))
        else:
            results = self._call(kind, images, domains)
        return results if np.ndim(image) == 4 else {domain: of[0] for domain, of in results.items()}

    def _call(self, kind, images, domains):
        """Run a program; images are repeated to make their number a multiple of that of the devices."""
        filled = -(-len(images) // self.mesh.size) * self.mesh.size
        padded = np.concatenate([images, np.repeat(images[-1:], filled - len(images), axis=0)])
        placed = sharding.put({"images": padded}, {"images": sharding.batch_sharding(self.mesh)})["images"]
        results = self._programs[kind](self.variables, placed, tuple(domains))
        return jax.tree.map(lambda a: np.asarray(a)[: len(images)], results)

    @functools.cached_property
    def _programs(self) -> dict[str, Callable]:
        split = sharding.batch_sharding(self.mesh)
        shardings = (sharding.replicated(self.mesh), split)

        def compiled(function):
            bound = partial(function, model=self.model)
            return jax.jit(bound, static_argnums=2, in_shardings=shardings, out_shardings=split)

        of = {"labels": labels_of, "probabilities": probabilities_of, "features": features_of}
        return {kind: compiled(function) for kind, function in of.items()}

    def _decoder(self, domain: str | None) -> str:
        if domain is None and len(self.domains) == 1:
            return next(iter(self.domains))
        if domain is None or domain not in self.domains:
            raise InputError(f"domain={domain}: the network has decoders for {', '.join(self.domains)}; give one")
        return domain

    def _checked(self, image) -> np.ndarray:
        """A batch of images, one or more."""
        image, cell = np.asarray(image), self.model.encoder.stride
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3 or not image.size:
            raise InputError(f"image: {image.dtype} {list(image.shape)}; give RGB uint8 [H, W, 3] or [B, H, W, 3]")
        if min(image.shape[-3:-1]) < cell:
            raise InputError(f"image: {list(image.shape)} is smaller than one cell, {cell} pixels")
        return image if image.ndim == 4 else image[None]


def load(folder: str | pathlib.Path, *, devices: Sequence[jax.Device] | None = None) -> Predictor:
    """Load the best checkpoint of a finished job, or a network exported for a model hub.

    Args:
      folder: folder of the job, such as RUN/full; it may have been moved since training. Of a whole run, the job is
        used that finished last of those with most decoders; `Predictor.job` names it. Or the folder that
        `python -m usss_jax.export --format=hub` writes.
      devices: devices that share the images of every batch; None: the first one.

    Raises:
      InputError: if the folder is not a run with a finished job, or the checkpoint is damaged.

    >>> import usss_jax
    >>> predictor = usss_jax.load("runs/demo/full")
    >>> predictor.domains["city_street"]["classes"][:3]
    ['road', 'sidewalk', 'building']
    """
    place = local_path(str(folder), "folder")
    mesh = sharding.create_mesh(devices or jax.local_devices()[:1])
    if not hub.is_hub(place):
        place = open_job(find_job(place)).folder
    model, variables, network, checkpoint = (hub.read_hub if hub.is_hub(place) else load_best)(place, mesh)
    return Predictor(model, variables, network, place, checkpoint, mesh)


def asked(predictor: Predictor, domain: str) -> list[str]:
    """Domains that a flag --domain asks for: one of the decoders, or all of them.

    Raises:
      InputError: if the network has no such decoder, or is not one for segmentation.
    """
    if lacking := [name for name, of in predictor.domains.items() if "colors" not in of]:
        raise InputError(f"{predictor.job}: {lacking[0]} has no colours, so it is no network for segmentation")
    if domain != "all" and domain not in predictor.domains:
        known = ", ".join([*predictor.domains, "all"])
        raise InputError(f"--domain={domain}: {predictor.job} has decoders for others; give one of {known}")
    return list(predictor.domains) if domain == "all" else [domain]
