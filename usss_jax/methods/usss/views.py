"""Views of unlabeled images that the student sees: strong ones, and dropped channels of the features."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from usss_jax.data.augment_device import DeviceAugment, change_colors, mix


def strong_augment(teacher: ConfigDict) -> DeviceAugment:
    """Settings of strong views, by the section `teacher` of a config; raises InputError for a value out of range."""
    return DeviceAugment(teacher.color_jitter, teacher.grey, teacher.blur, teacher.mix)


def beside(student, teacher):
    """Student's logits [B, h, w, C] and the teacher's of the same and of the previous image, [B, h, w, 3 C]."""
    return jnp.concatenate([student, teacher, jnp.roll(teacher, 1, axis=0)], axis=-1)


def strong_view(maps: Mapping, key, settings: DeviceAugment):
    """Mix the images of a micro-batch and all their maps alike, then change the colours of the images.

    Args:
      maps: {"image": [B, H, W, 3], "label": uint8 [B, H, W], and other maps}.
      key: random key of this view, domain and micro-batch.
      settings: static.

    Returns:
      (the maps, bool [B, H, W]: where a pixel is of the previous image).
    """
    own = jnp.broadcast_to(jnp.arange(maps["image"].shape[0])[:, None, None], maps["image"].shape[:3])
    of_mix, of_colors = jax.random.split(key)
    mixed = dict(mix({**maps, "of": own}, of_mix, settings.mix))
    pasted = mixed.pop("of") != own
    return {**mixed, "image": change_colors(mixed["image"], of_colors, settings)}, pasted


def drop_channels(features, key, share: float):
    """Set channels of features [B, h, w, C] to 0 with probability `share`, per image, and scale the others up.

    >>> drop_channels(jnp.ones((1, 2, 2, 64)), jax.random.key(0), 0.5).max().item()
    2.0
    """
    keep = jax.random.bernoulli(key, 1 - share, (features.shape[0], 1, 1, features.shape[-1]))
    return jnp.where(keep, features / (1 - share), 0)
