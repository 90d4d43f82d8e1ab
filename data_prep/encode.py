"""Reads, checks, resizes and encodes one example."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from tensorflow_datasets.core import example_serializer

from data_prep.inputs import Item
from usss_jax.data.decode import check_same_size, decode_image, read_file, resize_image, resize_label
from usss_jax.data.sizes import height_width

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One encoded example.

    Attributes:
      record: serialized example.
      histogram: pixels of each label value, int64 [256]; None without label.
      image_size: "HEIGHTxWIDTH" of the original image.
    """

    record: bytes
    histogram: np.ndarray | None
    image_size: str


def encode_example(
    item: Item,
    *,
    decode_mask: Callable[[bytes, str], np.ndarray],
    size: tuple[int, int] | None,
    image_format: str,
    features,
) -> Encoded:
    """Read, check, resize and encode the files of one item.

    Args:
      item: the files.
      decode_mask: (bytes, name) of a mask -> train ids, uint8 [h, w].
      size: (h, w); None: that of the image.
      image_format: of resized images; others keep their original bytes.
      features: tfds features of the example.

    Raises:
      InputError: naming the faulty file.
    """
    data = read_file(item.image)
    image = decode_image(data, item.image)
    size = size or image.shape[:2]
    label, histogram = None, None
    if item.mask is not None:
        mask = decode_mask(read_file(item.mask), item.mask)
        check_same_size(mask, image, item.mask, item.image)
        mask = resize_label(mask, size)
        label, histogram = _encode_image(mask, "png"), np.bincount(mask.ravel(), minlength=256)
    if image.shape[:2] != size:
        data = _encode_image(resize_image(image, size)[:, :, ::-1], image_format)
    record = _serialize({"id": item.id, "image": data, "label": label}, features)
    return Encoded(record, histogram, height_width(image.shape))


def _encode_image(pixels, image_format):
    encoded, data = cv2.imencode(f".{image_format}", pixels, JPEG if image_format == "jpeg" else [])
    assert encoded
    return data.tobytes()


def _serialize(example, features):
    """Serialize like features.serialize_example, but with the fields in the same order in all processes."""
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    return serializer.get_tf_example(features.encode_example(example)).SerializeToString(deterministic=True)
