"""Single images and masks on disk in CamVid's layout, for tests of reading."""

import os
import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from usss_jax.data.domains import get_domain
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError

H, W = 12, 16
CLASSES = [  # of a domain's file
    {"name": "road", "color": [128, 64, 128], "ids": [1]},
    {"name": "sky", "color": [70, 130, 180], "ids": [2]},
    {"name": "tree", "color": [0, 99, 0], "ids": [3]},
]


def real_data(folder):
    """Folder of a real data set below the one that the environment variable USSS_DATA names; skips without."""
    root = pathlib.Path(os.environ.get("USSS_DATA", "")) / folder
    if "USSS_DATA" not in os.environ or not root.is_dir():
        pytest.skip(f"USSS_DATA names no folder that holds {folder}")
    return root


def reader(read, path):
    """Function of bytes: `read` of a file with them; a refusal must be one line that begins with the file's name."""

    def read_bytes(data):
        path.write_bytes(data)
        try:
            return read(path)
        except InputError as e:
            assert str(e).startswith(f"{path}: ") and "\n" not in str(e) and len(str(e)) < len(str(path)) + 300
            raise

    return read_bytes


def smooth(seed, size=(H, W)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 2)


def write_image(path, seed=0, size=(H, W)):
    """Write an RGB image and return what was meant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = smooth(seed, size)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return image


def write_ids(path, ids, size=(H, W)):
    """Write an 8-bit grey mask that goes through `ids` from left to right, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.resize(np.asarray(ids, np.uint8), size[0] * size[1]).reshape(size)
    Image.fromarray(mask).save(path)
    return mask


def camvid(root, names=("a", "b"), split="train"):
    for seed, name in enumerate(names):
        write_image(root / split / f"{name}.png", seed)
        write_ids(root / f"{split}annot" / f"{name}.png", range(12))
    return root


def open_camvid(root, **arguments):
    return open_source(get_domain("camvid"), root, "train", **({"size": (H, W)} | arguments))


def complaint(error):
    text = str(error.value)
    assert "\n" not in text
    return text
