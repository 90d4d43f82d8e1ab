"""Batches of images of one size, read ahead, and predicted in the memory that the device has."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor

import jax
import numpy as np

from usss_jax.data.decode import read_file
from usss_jax.data.photographs import decode_photograph
from usss_jax.errors import InputError
from usss_jax.inference.inputs import Photograph, header_of
from usss_jax.inference.predictor import WHOLE_PIXELS, WINDOW, Predictor


def batches(
    predictor: Predictor, photographs: Sequence[Photograph], batch_size: int, window: int | None
) -> Iterator[tuple[list[Photograph], int]]:
    """Yield batches of equally sized images, each with the batch size to pad it to, the same for all of one size."""
    by_size: dict[tuple[int, int], list[Photograph]] = {}
    for one in photographs:
        by_size.setdefault(one.size, []).append(one)
    for (height, width), of_size in by_size.items():
        most = max(1, predictor.mesh.size * WHOLE_PIXELS // (height * width))
        most = 1 if predictor.windows_of((height, width), window) else min(batch_size, most)
        count = -(-len(of_size) // -(-len(of_size) // most))
        for start in range(0, len(of_size), count):
            yield of_size[start : start + count], count


def read_ahead(
    threads: Executor, batches: Iterable[tuple[list[Photograph], int]]
) -> Iterator[tuple[list[Photograph], list[np.ndarray], int]]:
    """Batches with their images, of which the next is being read."""
    waiting: deque = deque()
    for batch, count in batches:
        waiting.append((batch, [threads.submit(decode, one) for one in batch], count))
        if len(waiting) > 1:
            yield _read(*waiting.popleft())
    while waiting:
        yield _read(*waiting.popleft())


def _read(batch, futures, count):
    return batch, [future.result() for future in futures], count


def decode(one: Photograph) -> np.ndarray:
    """Pixels of a photograph, RGB uint8 [H, W, 3]; raises InputError if the file has changed its size meanwhile."""
    data = read_file(one.path)
    image = decode_photograph(data, header_of(data, one.path), one.path)
    if image.shape[:2] != one.size:
        raise InputError(f"{one.path}: has changed its size since the start; run the command again")
    return image


class InMemory:
    """Predicts batches, and if the device has too little memory by ever smaller windows, one image at a time."""

    def __init__(self, predictor: Predictor, domains: Sequence[str], window: int | None):
        self._predictor, self._domains, self._window, self._one_by_one = predictor, domains, window, False

    def labels(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        """Labels uint8 [B, H, W] of each domain, and the side of the windows; 0: whole images."""

        def predict(images, window):
            if len(self._domains) == 1:
                return {self._domains[0]: self._predictor.predict(images, self._domains[0], window=window)}
            return self._predictor.predict_all(images, window=window)

        labels = self._with_less_memory(predict, images)
        return labels, self._predictor.windows_of(images.shape[1:3], self._window)

    def probabilities(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities float32 [B, H, W, classes] of each domain."""

        def predict(images, window):
            return {d: self._predictor.probabilities(images, d, window=window) for d in self._domains}

        return self._with_less_memory(predict, images)

    def _with_less_memory(self, predict: Callable, images: np.ndarray) -> dict[str, np.ndarray]:
        while True:
            try:
                parts = [images[i : i + 1] for i in range(len(images))] if self._one_by_one else [images]
                return jax.tree.map(lambda *of: np.concatenate(of), *[predict(part, self._window) for part in parts])
            except jax.errors.JaxRuntimeError as e:
                if "RESOURCE_EXHAUSTED" not in str(e):
                    raise
                smaller = self._window // 2 if self._window else WINDOW
                least = 4 * self._predictor.model.encoder.stride
                if smaller < least:
                    text = f"the device has too little memory even for windows of {least} pixels; use the CPU"
                    raise InputError(f"{text} (JAX_PLATFORMS=cpu)") from e
                self._window, self._one_by_one = smaller, True
                text = f"out of memory on the device: from here on, one image at a time by windows of {smaller}"
                print(f"{text}x{smaller}", flush=True)
