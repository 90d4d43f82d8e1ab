"""Scores of images by a finished network, from which pseudo-labels are made."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from usss_jax.data.decode import resize_image
from usss_jax.data.domain import Domain
from usss_jax.data.examples import Examples
from usss_jax.data.progress import Progress
from usss_jax.errors import InputError
from usss_jax.methods.self_training.patches import image_probabilities, patch_corners
from usss_jax.methods.self_training.settings import Labelling
from usss_jax.methods.self_training.spatial_prior import apply_prior
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample, upsample_bicubic
from usss_jax.parallel.sharding import batch_sharding, replicated
from usss_jax.runs.logs import read_array, write_array
from usss_jax.runs.networks import load_best


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores of images by a network.

    Attributes:
      probabilities: of `network_probabilities`.
      settings: see `Labelling`.
      prior: float32 [H, W, C], or None.
    """

    probabilities: Callable
    settings: Labelling
    prior: np.ndarray | None = None

    def __call__(self, key: str, image: np.ndarray) -> np.ndarray:
        """Scores q of an image uint8 [H, W, 3], float32 [H, W, C]; `key` is its id."""
        settings, size = self.settings, image.shape[:2]
        corners = np.zeros((0, 2), np.int32)
        if settings.patches:
            corners = patch_corners(
                size, settings.inference.patch, settings.patches, seed=settings.seed, round=settings.round, image=key
            )
        if settings.scale != 1:
            image = resize_image(image, tuple(max(1, round(side * settings.scale)) for side in size))
        found = image_probabilities(self.probabilities, image, corners, settings.inference)
        if found.shape[:2] != size:
            found = jax.image.resize(found, (*size, found.shape[-1]), "cubic")
        return np.asarray(found if self.prior is None else apply_prior(found, self.prior))


def network_probabilities(
    model: UniversalModel, variables: Mapping, decoder: str, mesh: Mesh, bicubic: bool = True
) -> Callable:
    """Return the jitted function images [B, H, W, 3] -> class probabilities [B, H, W, C] of a network.

    The softmax is that of the cells, enlarged bicubically, so that values may lie slightly outside [0, 1], or by the
    upsampling of the model.
    """

    @jax.jit
    def probabilities(variables, images):
        if images.shape[0] % mesh.size == 0:
            images = jax.lax.with_sharding_constraint(images, batch_sharding(mesh))
        features = model.apply(variables, images, method="encode")
        cells = jax.nn.softmax(model.apply(variables, features, decoder, method="decode"), axis=-1)
        size, stride = images.shape[1:3], model.stride
        found = upsample_bicubic(cells, size, stride) if bicubic else upsample(cells, size, stride, model.upsample)
        return jax.lax.with_sharding_constraint(found, replicated(mesh))

    return partial(probabilities, variables)


def load_scorer(networks: Sequence[pathlib.Path], decoder: str, settings: Labelling, mesh: Mesh) -> tuple[Scorer, str]:
    """Load the best checkpoints of finished jobs to score images with their mean, and return their names, too.

    Of several processes, each has a scorer on its own first device.
    """
    of_process = mesh
    if jax.process_count() > 1:
        of_process = Mesh(np.array(jax.local_devices()[:1]), mesh.axis_names)
    functions, checkpoints = [], []
    for network in networks:
        model, variables, _, checkpoint = load_best(network, mesh)
        if of_process is not mesh:
            variables = jax.device_put(jax.device_get(variables), replicated(of_process))
        checkpoints.append(checkpoint)
        functions.append(network_probabilities(model, variables, decoder, of_process, settings.upsample == "bicubic"))
    prior = None if settings.prior is None else read_array(settings.prior)
    return Scorer(functions[0] if len(functions) == 1 else mean_of(functions), settings, prior), ", ".join(checkpoints)


def mean_of(functions: Sequence[Callable]) -> Callable:
    """The mean of functions of one argument.

    >>> mean_of([lambda x: x, lambda x: 3 * x])(2.0)
    4.0
    """
    return lambda images: sum(function(images) for function in functions) / len(functions)


class KeptScores:
    """Scores of all images, kept in files or computed when asked for."""

    def __init__(self, folder: pathlib.Path | None, scorer: Scorer, images: Examples, domain: Domain):
        self._folder, self._scorer, self._images, self._domain = folder, scorer, images, domain

    def check_space(self):
        """Raise InputError if the disk has no room for the scores."""
        if self._folder is None:
            return
        height, width = self._domain.size
        missing = sum(not self._path(i).exists() for i in range(len(self._images)))
        needed = missing * height * width * self._domain.num_classes * 4
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise InputError(
                f"{self._folder}: the scores of {missing} images need {needed / 1e9:.1f} GB of disk, and "
                f"{free / 1e9:.1f} GB are free; free some, label fewer images (data.unlabeled_list), or set "
                "rounds.keep_scores=False"
            )

    def make(self, name: str):
        """Compute and keep the scores that are not kept yet."""
        if self._folder is None:
            return
        for i in progress([i for i in range(len(self._images)) if not self._path(i).exists()], f"{name}: scores"):
            write_array(self._path(i), self._compute(i))

    def of(self, index: int) -> np.ndarray:
        """Scores of an image, float32 [H, W, C]."""
        if self._folder is not None and self._path(index).exists():
            return read_array(self._path(index))
        return self._compute(index)

    def highest(self) -> np.ndarray:
        """Highest score of every class in all images, [C]."""
        return np.max([scores.max((0, 1)) for scores in self], 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.of(i) for i in range(len(self._images)))

    def _path(self, index: int) -> pathlib.Path:
        assert self._folder is not None
        return self._folder / f"{self._images.ids[index]}.npz"

    def _compute(self, index: int) -> np.ndarray:
        return self._scorer(self._images.ids[index], self._images[index]["image"])


def progress(items: list, what: str) -> Iterator:
    """Yield the items, and show on stderr how many of them are done."""
    with contextlib.closing(Progress()) as shown:
        step = shown.start(what, len(items), 0) if items else lambda: None
        for item in items:
            yield item
            step()
