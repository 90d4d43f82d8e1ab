"""Views of unlabeled images that the student sees: strong ones, and dropped channels of the features."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from usss_jax.data.augment_device import DeviceAugment, change_colors, mix, regions
from usss_jax.objectives import IGNORE

ACROSS = 0.5  # share of the images into which a part of another domain is pasted


def strong_augment(teacher: ConfigDict) -> DeviceAugment:
    """Settings of strong views, by the section `teacher` of a config; raises InputError for a value out of range."""
    return DeviceAugment(teacher.color_jitter, teacher.grey, teacher.blur, teacher.mix)


def beside(student, teacher):
    """Student's logits [B, h, w, C] and the teacher's of the same and of the previous image, [B, h, w, 3 C]."""
    return jnp.concatenate([student, teacher, jnp.roll(teacher, 1, axis=0)], axis=-1)


def strong_view(maps: Mapping, key, settings: DeviceAugment, other: Mapping | None = None):
    """Mix the images of a micro-batch and all their maps alike, then change the colours of the images.

    Args:
      maps: {"image": [B, H, W, 3], "label": uint8 [B, H, W], and other maps}.
      key: random key of this view, domain and micro-batch.
      settings: static.
      other: images of another domain and their maps, of which parts are pasted into half of the images; None: none.

    Returns:
      (the maps, bool [B, H, W]: where a pixel is of the previous image, the maps of the pasted pixels or None); see
      `paste_across`.
    """
    own = jnp.broadcast_to(jnp.arange(maps["image"].shape[0])[:, None, None], maps["image"].shape[:3])
    of_mix, of_colors = jax.random.split(key)
    mixed = dict(mix({**maps, "of": own}, of_mix, settings.mix))
    rolled, across = mixed.pop("of") != own, None
    if other is not None:
        mixed, across = paste_across(mixed, other, jax.random.fold_in(of_mix, 1), settings.mix)
    return {**mixed, "image": change_colors(mixed["image"], of_colors, settings)}, rolled, across


def paste_across(maps: Mapping, other: Mapping, key, how: str) -> tuple[dict, dict]:
    """Paste parts of the images of another domain into a share `ACROSS` of the images, as DACS (Tranheden et al. 2021).

    Args:
      maps, other: {"image": [B, H, W, 3], "label": int [B, H, W], "valid": [B, H, W], and other maps}, the labels in
        the classes of their own domain. Pixels that are not valid are never pasted. Other images that are smaller end
        where they end, larger ones are cut at the right and below, and too few are repeated.
      key: random key.
      how: "cutmix" or "classmix", see `data.augment_device.mix`.

    Returns:
      (the maps, the other's maps without their image), each valid where a pixel is of its own domain: the decoder of
      each domain has the labels of its own pixels.

    >>> one, two = ({"image": jnp.full((1, 2, 2, 3), i), "label": jnp.full((1, 2, 2), i)} for i in (0, 1))
    >>> one, two = ({**maps, "valid": jnp.ones((1, 2, 2))} for maps in (one, two))
    >>> mixed, pasted = paste_across(one, two, jax.random.key(1), "cutmix")
    >>> bool((pasted["valid"] == (mixed["image"] == 1).all(-1)).all()), bool((mixed["valid"] != pasted["valid"]).all())
    (True, True)
    """
    count, height, width = maps["image"].shape[:3]
    other = {name: fitted(a, count, height, width) for name, a in other.items()}
    known = jnp.where(other["valid"] != 0, other["label"], IGNORE)
    of_region, of_share = jax.random.split(key)
    hit = jax.random.uniform(of_share, (count, 1, 1)) < ACROSS
    pasted = hit & regions(of_region, {**other, "label": known}, how) & (other["valid"] != 0)
    image = jnp.where(pasted[..., None], other.pop("image"), maps["image"])
    valid = jnp.where(pasted, 0, maps["valid"])
    return {**maps, "image": image, "valid": valid}, {**other, "valid": pasted.astype(valid.dtype)}


def fitted(array, count: int, height: int, width: int):
    """Repeat or drop images, cut or pad them with 0 at the right and below: [B, H, W, ...] -> [count, height, ...].

    >>> fitted(jnp.ones((1, 1, 3)), 2, 2, 2).tolist()
    [[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]
    """
    array = jnp.concatenate([array] * -(-count // array.shape[0]))[:count, :height, :width]
    missing = [(0, 0), (0, height - array.shape[1]), (0, width - array.shape[2])]
    return jnp.pad(array, missing + [(0, 0)] * (array.ndim - 3))


def drop_channels(features, key, share: float):
    """Set channels of features [B, h, w, C] to 0 with probability `share`, per image, and scale the others up.

    >>> drop_channels(jnp.ones((1, 2, 2, 64)), jax.random.key(0), 0.5).max().item()
    2.0
    """
    keep = jax.random.bernoulli(key, 1 - share, (features.shape[0], 1, 1, features.shape[-1]))
    return jnp.where(keep, features / (1 - share), 0)
