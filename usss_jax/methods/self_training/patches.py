"""SISC (MLSL, section 3.2): probabilities of an image as the mean over the image and random patches of it.

The module does not know the network: `probabilities` is any function of images [B, H, W, 3] that returns class
probabilities [B, H, W, C]. The caller jits it. It is called with one shape for all patches and one for whole images, so
that two programs serve all images of one size. Loops over patches run on the host, since XLA's CPU backend computes
convolutions inside a loop slowly.
"""

import dataclasses
import zlib
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from usss_jax.errors import InputError

VOTES = ("prob", "onehot")
UNCOVERED = ("ignore", "full")


@dataclasses.dataclass(frozen=True)
class Inference:
    """How to compute the probabilities of an image.

    Attributes:
      patch: height and width of a patch in pixels.
      batch: patches per call of the network; changes the result by rounding only.
      full_image: whether the whole image votes, too.
      flip: whether each prediction is the mean of those of the image and of its mirror image.
      vote: "prob": an image or patch votes with its probabilities; "onehot": with its arg max (MLSL, section 4.3).
      uncovered: without `full_image`, pixels in no patch get zeros ("ignore"), or the vote of the whole image ("full").

    Raises:
      ValueError: if a choice is unknown.
    """

    patch: int = 512
    batch: int = 10
    full_image: bool = True
    flip: bool = True
    vote: str = "prob"
    uncovered: str = "ignore"

    def __post_init__(self):
        """Check the choices."""
        if self.vote not in VOTES:
            raise ValueError(f"vote={self.vote!r} is not one of {', '.join(VOTES)}")
        if self.uncovered not in UNCOVERED:
            raise ValueError(f"uncovered={self.uncovered!r} is not one of {', '.join(UNCOVERED)}")


def patch_corners(size: tuple[int, int], patch: int, count: int, *, seed: int, round: int, image: str) -> np.ndarray:
    """Sample the top left corners of patches uniformly, the same for the same seed, round and image.

    Args:
      size: (H, W) of the image; a patch may touch each border.
      patch: its height and width.
      count: K.
      seed, round: not negative.
      image: name of the image.

    Returns:
      int32 [K, 2], each (row, column).

    Raises:
      InputError: if the image is smaller than a patch.

    >>> patch_corners((4, 4), patch=4, count=2, seed=0, round=0, image="a").tolist()
    [[0, 0], [0, 0]]
    """
    if patch > min(size):
        raise InputError(f"patch={patch} exceeds the image of {size[0]}x{size[1]}; set at most {min(size)}")
    random = np.random.RandomState([seed, round, zlib.crc32(image.encode())])
    rows, columns = (random.randint(0, side - patch + 1, count) for side in size)
    return np.stack([rows, columns], 1).astype(np.int32)


def image_probabilities(probabilities: Callable, image, corners: np.ndarray, settings: Inference):
    """Average the votes of an image and its patches at every pixel; without patches it is single inference (CBST).

    Args:
      probabilities: jitted function of images [B, h, w, 3], which returns [B, h, w, C].
      image: [H, W, 3].
      corners: `patch_corners`, int [K, 2]; if K = 0, the whole image votes alone.
      settings: see `Inference`.

    Returns:
      float32 [H, W, C]. Where no patch and no whole image votes, all classes are 0, so `select_labels` ignores the
      pixel.

    >>> flat = lambda images: jnp.full((*images.shape[:3], 2), 0.5)
    >>> settings = Inference(patch=1, full_image=False)
    >>> image_probabilities(flat, jnp.zeros((1, 2, 3)), np.array([[0, 1]]), settings).tolist()
    [[[0.0, 0.0], [0.5, 0.5]]]
    """
    vote = partial(_votes, probabilities, settings=settings)
    image = jnp.asarray(image)
    if not len(corners):
        return vote(image[None])[0]
    total, counts = None, jnp.zeros(image.shape[:2], jnp.float32)
    if settings.full_image:
        total, counts = vote(image[None])[0], counts + 1
    for start in range(0, len(corners), settings.batch):
        part = corners[start : start + settings.batch]
        filled = np.pad(part, [(0, settings.batch - len(part)), (0, 0)])  # to compile for one shape
        votes = vote(_cut(image, filled, size=settings.patch))
        if total is None:
            total = jnp.zeros((*image.shape[:2], votes.shape[-1]), votes.dtype)
        total, counts = _add(total, counts, votes, filled, len(part))
    if settings.uncovered == "full" and not settings.full_image:
        return _mean(total, counts, vote(image[None])[0])
    return _mean(total, counts, 0.0)


def _votes(probabilities: Callable, images, settings: Inference):
    """Votes of images [B, h, w, 3], float32 [B, h, w, C]."""
    found = probabilities(images)
    if settings.flip:
        found = (found + probabilities(images[:, :, ::-1])[:, :, ::-1]) / 2
    if settings.vote == "onehot":
        found = jax.nn.one_hot(jnp.argmax(found, axis=-1), found.shape[-1])
    return found.astype(jnp.float32)


@partial(jax.jit, static_argnames="size")
def _cut(image, corners, size: int):
    """Patches of an image [H, W, 3] at corners [B, 2]: [B, size, size, 3]."""
    return jax.vmap(lambda corner: lax.dynamic_slice(image, (*corner, 0), (size, size, 3)))(corners)


@partial(jax.jit, donate_argnames=("total", "counts"))
def _add(total, counts, votes, corners, used):
    """Add the first `used` votes [B, h, w, C] at their corners to the sums [H, W, C], and count them in [H, W]."""

    def add(i, sums):
        total, counts = sums
        row, column = corners[i]
        before = lax.dynamic_slice(total, (row, column, 0), votes.shape[1:])
        counted = lax.dynamic_slice(counts, (row, column), votes.shape[1:3])
        return (
            lax.dynamic_update_slice(total, before + votes[i], (row, column, 0)),
            lax.dynamic_update_slice(counts, counted + 1, (row, column)),
        )

    return lax.fori_loop(0, used, add, (total, counts))


@jax.jit
def _mean(total, counts, otherwise):
    """Mean vote of every pixel, `otherwise` where there is none."""
    counts = counts[..., None]
    return jnp.where(counts > 0, total / jnp.maximum(counts, 1), otherwise)
