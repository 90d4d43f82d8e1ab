"""Tiny data sets in the official layouts, for tests: blocks of random classes, whose colour tells the class."""

import pathlib

import cv2
import numpy as np

CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def scene(rng, size, raw_ids, void):
    """Image [h, w, 3] and mask [h, w] of 8x8-pixel blocks; some blocks are void."""
    height, width = size
    blocks = rng.integers(0, len(raw_ids), (-(-height // 8), -(-width // 8)))
    train_ids = np.kron(blocks, np.ones((8, 8), int))[:height, :width]
    mask = np.asarray(raw_ids)[train_ids]
    mask[:8, :8] = void
    hues = np.stack([train_ids * 12, 255 - train_ids * 12, train_ids * 37 % 256], -1)
    image = np.clip(hues + rng.integers(-20, 20, hues.shape), 0, 255)
    return image.astype(np.uint8), mask.astype(np.uint8)


def write(path: pathlib.Path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def write_camvid(root: pathlib.Path, count=6, size=(48, 64)):
    """SegNet's layout: {split}/NAME.png beside {split}annot/NAME.png."""
    for split in ("train", "val", "test"):
        for i in range(count):
            image, mask = scene(np.random.default_rng([1, i]), size, range(11), void=11)
            write(root / split / f"0001TP_{i:06d}.png", image)
            write(root / f"{split}annot" / f"0001TP_{i:06d}.png", mask)


def write_cityscapes(root: pathlib.Path, count=6, size=(64, 128)):
    """The official layout, masks as labelIds."""
    for split, city in (("train", "ulm"), ("val", "munster")):
        for i in range(count):
            image, mask = scene(np.random.default_rng([2, i]), size, CITYSCAPES_LABEL_IDS, void=0)
            stem = f"{city}_{i:06d}_000019"
            write(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
            write(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", mask)
