"""Paired augmentation of image and mask on the host; the paper's setting is crop and horizontal flip alone."""

import dataclasses

import grain
import numpy as np

IGNORE = 255
PADDING = (124, 116, 104)  # mean colour of ImageNet: zero after normalisation


@dataclasses.dataclass(frozen=True)
class CropFlip(grain.transforms.RandomMap):
    """Random crop of `size` (h, w), then a horizontal flip in half of the cases; image and mask alike.

    Where the image is smaller than the crop it is padded (bottom, right) with the mean colour, the mask with ignore.
    """

    size: tuple[int, int]

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """Transform {"image": uint8 [H, W, 3], "label" (optional): uint8 [H, W]}."""
        height, width = element["image"].shape[:2]
        crop_h, crop_w = self.size
        top = int(rng.integers(0, max(height - crop_h, 0) + 1))
        left = int(rng.integers(0, max(width - crop_w, 0) + 1))
        flip = bool(rng.random() < 0.5)
        fills = {"image": np.asarray(PADDING, np.uint8), "label": np.uint8(IGNORE)}
        out = {}
        for key, array in element.items():
            part = array[top : top + crop_h, left : left + crop_w]
            if part.shape[:2] != self.size:
                padded = np.empty((*self.size, *part.shape[2:]), np.uint8)
                padded[:] = fills[key]
                padded[: part.shape[0], : part.shape[1]] = part
                part = padded
            out[key] = np.ascontiguousarray(part[:, ::-1] if flip else part)
        return out
