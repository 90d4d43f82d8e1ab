"""Batches of images and labels: random crops for training, centre crops for evaluation."""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import grain
import numpy as np

from usss_jax.data.decode import resize_image
from usss_jax.methods.imagenet.images import ClassImages

RATIO = (3 / 4, 4 / 3)  # width over height of a random crop
TRIES = 10
NO_LABEL = -1  # of the padding of the last batch of an evaluation


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(grain.transforms.RandomMap):
    """Random crop of the image, resized to `size` x `size` and flipped at random (Szegedy et al., 2015, section 6).

    The crop's share of the area is uniform in [min_scale, 1], the logarithm of width over height uniform between those
    of 3/4 and 4/3. If none of ten crops fits into the image, the largest centre crop with a valid ratio is taken.
    """

    size: int
    min_scale: float = 0.08
    flip: bool = True

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """Crop the "image" (uint8 [H, W, 3]) of an example."""
        image = element["image"]
        top, left, height, width = random_box(image.shape[0], image.shape[1], self.min_scale, rng)
        crop = resize_image(image[top : top + height, left : left + width], (self.size, self.size))
        if self.flip and rng.random() < 0.5:
            crop = cv2.flip(crop, 1)
        return {**element, "image": crop}


def random_box(height: int, width: int, min_scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop of an image (see `RandomResizedCrop`).

    >>> random_box(90, 120, 1.0, np.random.default_rng(0))  # the whole image has no valid ratio but 4/3
    (0, 0, 90, 120)
    """
    for _ in range(TRIES):
        area = height * width * rng.uniform(min_scale, 1)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        rows, columns = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
        if rows <= height and columns <= width:
            return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    rows, columns = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@dataclasses.dataclass(frozen=True)
class CenterCrop(grain.transforms.Map):
    """Resize the shorter side to `resize`, then crop `size` x `size` pixels in the centre.

    >>> CenterCrop(resize=4, size=2).map({"image": np.zeros((8, 16, 3), np.uint8)})["image"].shape
    (2, 2, 3)
    """

    resize: int
    size: int

    def map(self, element: dict) -> dict:
        """Crop the "image" (uint8 [H, W, 3]) of an example."""
        height, width = element["image"].shape[:2]
        factor = self.resize / min(height, width)
        image = resize_image(element["image"], (round(height * factor), round(width * factor)))
        top, left = (image.shape[0] - self.size) // 2, (image.shape[1] - self.size) // 2
        return {**element, "image": image[top : top + self.size, left : left + self.size]}


def train_batches(
    source: ClassImages, crop: RandomResizedCrop, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)
) -> grain.MapDataset:
    """Endless batches in a new order every epoch; item s is the batch of step s, a function of source, seed and s.

    Items are {"image": uint8 [B, size, size, 3], "label": int32 [B]}. With `share` = (index, count), each item is the
    index-th of `count` equal parts of a batch.
    """
    index, count = share
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(crop)
    return examples.batch(batch_size // count, drop_remainder=True, batch_fn=stack)[index::count]


def eval_batches(
    source: ClassImages, crop: CenterCrop, batch_size: int, share: tuple[int, int] = (0, 1)
) -> grain.MapDataset:
    """Every example once, in order, in batches as of `train_batches`; the last is padded with labels NO_LABEL."""
    index, count = share
    last = len(source) - 1

    def example(i: int) -> dict:
        cropped = crop.map(source[min(i, last)])
        return cropped if i <= last else {**cropped, "label": np.full_like(cropped["label"], NO_LABEL)}

    indices = grain.MapDataset.range(-(-len(source) // batch_size) * batch_size)
    return indices.map(example).batch(batch_size // count, drop_remainder=True, batch_fn=stack)[index::count]


def stack(examples: Sequence[dict]) -> dict[str, np.ndarray]:
    """Stack examples of equal shapes.

    >>> stack([{"label": np.int32(3)}, {"label": np.int32(5)}])["label"].tolist()
    [3, 5]
    """
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
