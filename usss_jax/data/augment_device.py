"""Augmentation inside the compiled training step: colours of all images, mixing of labeled ones.

All operations are per image or roll along the batch, so that any number of devices gives the same images.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from usss_jax.data.domain import IGNORE
from usss_jax.errors import InputError

MIXES = ("none", "cutmix", "classmix")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of Pillow's mode "L"
JITTER_PROBABILITY = 0.8
SIGMA = (0.1, 2.0)
RADIUS = 6  # of the blur: three times the largest standard deviation


@dataclasses.dataclass(frozen=True)
class DeviceAugment:
    """Settings of the augmentation on the device; the default is none, as in the paper.

    Attributes:
      color_jitter: strength s, 0 to 1. With probability 0.8, an image's brightness, contrast and saturation change by
        factors in [1 - s, 1 + s], its hue by up to s / 4 of the circle (the ratio of SimCLR; s / 2 in UniMatch).
      grey: probability of converting an image to grey.
      blur: probability of a Gaussian blur with a standard deviation uniform in [0.1, 2] pixels.
      mix: "none", "cutmix" or "classmix": every labeled image receives a part of another one of its batch.

    Raises:
      InputError: for a value out of range; the message names the field.
    """

    color_jitter: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    mix: str = "none"

    def __post_init__(self):
        """Check every field."""
        for field, meaning in (("color_jitter", "a strength"), ("grey", "a probability"), ("blur", "a probability")):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise InputError(f"{field}={value} is not {meaning} between 0 and 1")
        if self.mix not in MIXES:
            raise InputError(f"mix={self.mix!r} is not one of {', '.join(MIXES)}")

    @property
    def changes_colors(self) -> bool:
        """Whether colours may change, so that images become floating point."""
        return bool(self.color_jitter or self.grey or self.blur)

    @property
    def is_identity(self) -> bool:
        """Whether `augment` returns the batch unchanged."""
        return not self.changes_colors and self.mix == "none"


def augment(batch: Mapping, key, settings: DeviceAugment) -> Mapping:
    """Augment the batch of one training step: first mixing, then colours, so that colours do not reveal pasted parts.

    The result for a part depends only on the key, its kind and its domain, not on the rest of the batch.

    Args:
      batch: {"labeled": {domain: {"image": [B, H, W, 3], "label": uint8 or int [B, H, W] in 0 .. 255, and optional
        other maps of the pixels}}, "unlabeled": {domain: {"image": [U, B, H, W, 3]}}}; "unlabeled" may be absent.
        Images are uint8, or floating point in [0, 1].
      key: random key of this step.
      settings: static.

    Returns:
      The same batch object if `settings` changes nothing, else a new one of the same structure: labels and other maps
      unchanged or mixed with their images; images as floating point in [0, 1] if colours may change, else of the
      same dtype.
    """
    if settings.is_identity:
        return batch
    out: dict[str, dict] = {"labeled": {}}
    for domain, part in batch["labeled"].items():
        mixed = mix(part, part_key(key, "mix", domain), settings.mix)
        images = change_colors(mixed["image"], part_key(key, "labeled", domain), settings)
        out["labeled"][domain] = {**mixed, "image": images}
    if "unlabeled" in batch:
        out["unlabeled"] = {}
    for domain, part in batch.get("unlabeled", {}).items():
        change = jax.vmap(partial(change_micro_batch, key=key, domain=domain, settings=settings))
        out["unlabeled"][domain] = {**part, "image": change(part["image"], jnp.arange(part["image"].shape[0]))}
    return out


def change_micro_batch(images, u, *, key, domain: str, settings: DeviceAugment):
    """Augment the unlabeled micro-batch u of a domain, [B, H, W, 3], as `augment` does.

    Inside a scan over micro-batches, only one of them is floating point at a time.
    """
    return change_colors(images, jax.random.fold_in(part_key(key, "unlabeled", domain), u), settings)


def part_key(key, kind: str, domain: str):
    """Derive the random key of one part of a batch, independent of the other parts.

    >>> key = jax.random.key(0)
    >>> bool((part_key(key, "labeled", "camvid") == part_key(key, "labeled", "idd")).all())
    False
    """
    return jax.random.fold_in(key, zlib.crc32(f"{kind}/{domain}".encode()))


# ---- Colours ----


def change_colors(images, key, settings: DeviceAugment):
    """Apply jitter, grey and blur, in this order, at random to every image.

    Padded and ignored pixels are treated like all others, also in the mean grey that contrast refers to.

    Args:
      images: [B, H, W, 3], uint8 or floating point in [0, 1].
      key: random key of this batch.
      settings: static.

    Returns:
      Floating point in [0, 1], [B, H, W, 3]; an image that is not changed is scaled as by the model. The same object
      if `settings` leaves colours unchanged.
    """
    if not settings.changes_colors:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        images = images.astype(jnp.float32) / 255
    # One call of the generator, as each takes the compiler about as long. A row keeps its meaning, so that switching
    # one change on or off does not affect the others.
    draws = jax.random.uniform(key, (8, images.shape[0]), jnp.float32).astype(images.dtype)
    hit, brightness, contrast, saturation, hue, to_grey, blurred, sigma = draws[..., None, None, None]
    if s := settings.color_jitter:
        brightness, contrast, saturation = (1 + s * (2 * u - 1) for u in (brightness, contrast, saturation))
        jittered = jitter(images, brightness, contrast, saturation, (2 * hue - 1) * s / 4)
        images = jnp.where(hit < JITTER_PROBABILITY, jittered, images)
    if settings.grey:
        images = jnp.where(to_grey < settings.grey, grey(images), images)
    if settings.blur:
        sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma
        images = lax.optimization_barrier(images)  # else colours are recomputed for every tap of the blur
        images = jnp.where(blurred < settings.blur, blur(images, sigma), images)
    return images


def jitter(images, brightness, contrast, saturation, hue):
    """Change brightness, contrast, saturation and hue in this order, each clipped to [0, 1] as in torchvision.

    The ColorJitter of torchvision and kornia randomizes the order. torchvision's weight of red is 0.2989.

    Args:
      images: floating point in [0, 1], [B, H, W, 3].
      brightness, contrast, saturation: factors, [B, 1, 1, 1]; contrast is relative to the mean grey of the image.
      hue: fraction of the circle, [B, 1, 1, 1].

    Returns:
      Floating point in [0, 1], [B, H, W, 3].

    >>> image = jnp.array([[[[0.25, 0.5, 0.5]]]])
    >>> jitter(image, 2.0, 1.0, 1.0, 0.0).tolist()  # twice as bright
    [[[[0.5, 1.0, 1.0]]]]
    """
    images = jnp.clip(images * brightness, 0, 1)
    mean = grey(images).mean((-3, -2, -1), keepdims=True)
    images = jnp.clip(mean + contrast * (images - mean), 0, 1)
    level = grey(images)
    images = jnp.clip(level + saturation * (images - level), 0, 1)
    return shift_hue(images, hue)


def grey(images):
    """Luma of RGB, [..., 3] -> [..., 1].

    >>> print(grey(jnp.array([1.0, 0.0, 0.0])))
    [0.299]
    """
    return sum(weight * images[..., i : i + 1] for i, weight in enumerate(LUMA))


def shift_hue(images, shift):
    """Shift the hue of HSV by a fraction of the circle, keeping value and saturation, like torchvision's adjust_hue.

    Args:
      images: [..., 3] in [0, 1].
      shift: broadcasts to [..., 1]; 1 is the whole circle.

    >>> shift_hue(jnp.array([1.0, 0.0, 0.0]), 1 / 3).round(3).tolist()  # red to green
    [0.0, 1.0, 0.0]
    """
    top = images.max(-1, keepdims=True)
    chroma = top - images.min(-1, keepdims=True)
    r, g, b = (images[..., i : i + 1] for i in range(3))
    divisor = jnp.where(chroma > 0, chroma, 1)
    # Channels are compared with each other, not with the largest, which the compiler may recompute with another
    # rounding. If two are nearly equal, either branch gives the same hue.
    red, green = (r >= g) & (r >= b), g >= b
    difference = jnp.where(red, g - b, jnp.where(green, b - r, r - g))
    hue = difference / divisor + jnp.where(red, 0, jnp.where(green, 2, 4))  # in sixths of the circle
    # A channel of hue h is V - C clip(min(k, 4 - k), 0, 1) with k = (n + h) mod 6 and n = 5, 3, 1 for R, G, B.
    k = hue + 6 * shift + jnp.asarray([5, 3, 1], images.dtype)
    k = k - 6 * jnp.floor(k / 6)  # % compiles to a slow call per pixel
    return top - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def blur(images, sigma):
    """Gaussian blur with a window of 13 x 13 pixels and repeated border pixels.

    Args:
      images: [..., H, W, 3].
      sigma: standard deviation in pixels, [..., 1, 1, 1]; not 0.

    >>> image = jnp.zeros((1, 3, 3)).at[0, 1].set(1.0)  # a bright column
    >>> blurred = blur(image, jnp.ones((1, 1, 1)))
    >>> bool(0 < blurred[0, 0, 0] < blurred[0, 1, 0] < 1)
    True
    """
    weights = [jnp.exp(-0.5 * (i / sigma) ** 2) for i in range(RADIUS + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in (-3, -2):
        length = images.shape[axis]
        widths = [(0, 0)] * images.ndim
        widths[axis] = (RADIUS, RADIUS)
        padded = lax.optimization_barrier(jnp.pad(images, widths, mode="edge"))  # else recomputed for every tap
        at = [lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(2 * RADIUS + 1)]
        pairs = (w * (at[RADIUS - i] + at[RADIUS + i]) for i, w in enumerate(weights) if i)
        images = (weights[0] * at[RADIUS] + sum(pairs)) / total
    return images


# ---- Mixing ----


def mix(maps: Mapping, key, how: str) -> Mapping:
    """Paste a part of the previous example of the batch (of the last one into the first) in all maps.

    The partner is random, as is the order of the batch. A batch of one example is not changed.

    Args:
      maps: tree of arrays [B, H, W] or [B, H, W, C], such as {"image", "label", "confidence"}; "image" is required,
        for "classmix" also "label" [B, H, W], in 0 .. 255.
      key: random key of this batch.
      how: one of MIXES.

    Returns:
      The same tree with the same dtypes.

    >>> maps = {"image": jnp.arange(2.0)[:, None, None, None] * jnp.ones((2, 4, 4, 3))}  # all 0, all 1
    >>> mixed = mix(maps, jax.random.key(0), "cutmix")["image"]
    >>> mixed[0].sum().item() > 0  # part of the last image is pasted into the first
    True
    """
    if how == "none" or maps["image"].shape[0] == 1:
        return maps
    others = jax.tree.map(lambda a: jnp.roll(a, 1, axis=0), maps)
    pasted = regions(key, others, how)

    def paste(other, own):
        return jnp.where(pasted.reshape(pasted.shape + (1,) * (own.ndim - 3)), other, own)

    return jax.tree.map(paste, others, maps)


def regions(key, maps: Mapping, how: str):
    """Sample the part of each image that is pasted into another one, bool [B, H, W]; arguments as for `mix`.

    >>> regions(jax.random.key(0), {"image": jnp.zeros((2, 4, 6, 3))}, "cutmix").shape
    (2, 4, 6)
    """
    return cut_boxes(key, maps["image"].shape[:3]) if how == "cutmix" else half_the_classes(key, maps["label"])


def cut_boxes(key, shape: tuple[int, int, int]):
    """Sample the box of each image that CutMix pastes: shape [B, H, W] -> bool.

    Its share of the area is uniform in [0, 1] (Yun et al. 2019, with alpha = 1); its relative sides are the powers r
    and 1 - r of this share, r uniform, and all positions are equally likely (French et al. 2020).

    >>> cut_boxes(jax.random.key(0), (2, 4, 6)).shape
    (2, 4, 6)
    """
    count, height, width = shape
    area, power, y, x = jax.random.uniform(key, (4, count), jnp.float32)[..., None, None]
    box_h = jnp.round(height * area**power)
    box_w = jnp.round(width * area ** (1 - power))
    top = jnp.floor(y * (height - box_h + 1))
    left = jnp.floor(x * (width - box_w + 1))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    return (rows >= top) & (rows < top + box_h) & (columns >= left) & (columns < left + box_w)


def half_the_classes(key, labels):
    """Sample half of the classes of each image, whose pixels ClassMix pastes: labels [B, H, W] -> bool.

    Half is rounded down, as in the authors' code (Olsson et al. 2021), so that a single class is not pasted; nor are
    ignored pixels.

    >>> half_the_classes(jax.random.key(0), jnp.array([[[3, 3, 255]], [[0, 1, 255]]])).sum((1, 2)).tolist()
    [0, 1]
    """
    flat = labels.reshape(labels.shape[0], -1).astype(jnp.int32)
    present = jax.vmap(lambda ids: jnp.zeros(IGNORE + 1, bool).at[ids].set(True))(flat).at[:, IGNORE].set(False)
    scores = jnp.where(present, jax.random.uniform(key, present.shape, jnp.float32), 2)
    ranks = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    chosen = ranks < present.sum(1, keepdims=True) // 2
    return jnp.take_along_axis(chosen, flat, axis=1).reshape(labels.shape)
