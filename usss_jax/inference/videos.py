"""Predictions of the frames of a video, as a video."""

import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from usss_jax.data.progress import Progress
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError
from usss_jax.inference import drawing
from usss_jax.inference.predictor import Predictor

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


def is_video(text: str) -> bool:
    """Whether a path ends like that of a video.

    >>> is_video("drive.MP4"), is_video("drive.png")
    (True, False)
    """
    return text.lower().endswith(VIDEOS)


def predict_video(
    predictor: Predictor,
    domains: Sequence[str],
    path: str,
    out: pathlib.Path,
    batch_size: int = 8,
    window: int | None = None,
) -> dict[str, Any]:
    """Write out/videos/NAME.mp4, the frames of a video under their labels, and return its entry in predictions.json.

    Args:
      predictor: the network.
      domains: decoders, side by side if there are several.
      path: of the video.
      out: folder for the outputs.
      batch_size: frames that are predicted together.
      window: see `Predictor.predict`.

    Raises:
      InputError: if the video has no readable frames, or frames smaller than a cell, or if OpenCV cannot write it.
    """
    path = os.path.expanduser(path)
    capture = cv2.VideoCapture(path)
    total, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS) or 25.0
    name = pathlib.Path(path).stem
    writer = _Writer(out / "videos" / f"{name}.mp4", rate)
    sums = {domain: np.zeros(len(predictor.domains[domain]["classes"]), np.int64) for domain in domains}
    size, count, began, progress = (0, 0), 0, time.monotonic(), Progress()
    step = None
    for frames, used in _batches(capture, batch_size):
        if step is None:
            size = _checked(predictor, frames.shape[1:3], path)
            step = progress.start("predict", max(total, 1), 0)
        if len(domains) == 1:
            labels = {domains[0]: predictor.predict(frames, domains[0], window=window)}
        else:
            labels = predictor.predict_all(frames, window=window)
        for i in range(used):
            of_frame = {domain: of[i] for domain, of in labels.items()}
            for domain, of in of_frame.items():
                sums[domain] += np.bincount(of.ravel(), minlength=len(sums[domain]))
            writer.write(drawing.draw(frames[i], of_frame, predictor.domains, name))
            step()
        count += used
    progress.close()
    if not count:
        raise InputError(
            f"{path}: no frame of this video can be read; give another, or convert it (ffmpeg -i FILE a.mp4)"
        )
    writer.close()
    if count < total:
        print(f"{path}: {count} of {total} frames could be read")
    seconds = time.monotonic() - began
    print(f"{count} frames in {seconds:.1f} s, {count / seconds:.2f} frames/s; wrote {writer.path}")
    shares = {
        domain: dict(zip(predictor.domains[domain]["classes"], (of / of.sum()).tolist(), strict=True))
        for domain, of in sums.items()
    }
    side = predictor.windows_of(size, window)
    return {name: {"file": path, "size": list(size), "frames": count, "rate": rate, "window": side, "shares": shares}}


def _checked(predictor, size, path) -> tuple[int, int]:
    cell = predictor.model.encoder.stride
    if min(size) < cell:
        raise InputError(f"{path}: its frames are {height_width(size)}; the smallest for this network is {cell}x{cell}")
    return size[0], size[1]


def _batches(capture: cv2.VideoCapture, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """RGB frames uint8 [batch_size, H, W, 3] and how many of them are new; the last batch is filled up."""
    frames: list[np.ndarray] = []
    while True:
        there, frame = capture.read()
        if there:
            frames.append(frame[:, :, ::-1])
        if frames and (not there or len(frames) == batch_size):
            yield np.stack(frames + frames[-1:] * (batch_size - len(frames))), len(frames)
            frames = []
        if not there:
            return


class _Writer:
    """Writes frames into an MP4 file, which gets its name when it is complete."""

    def __init__(self, path: pathlib.Path, rate: float):
        self.path, self._rate, self._count = path, rate, 0
        self._partial = path.with_name(f".{path.stem}.partial.mp4")
        self._writer: cv2.VideoWriter | None = None

    def write(self, page: np.ndarray):
        """Append a frame uint8 [h, w, 3]; odd sides are filled up, which codecs need."""
        page = np.pad(page, [(0, side % 2) for side in page.shape[:2]] + [(0, 0)], constant_values=255)
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), code, self._rate, page.shape[1::-1])
            if not self._writer.isOpened():
                raise InputError(f"{self.path}: OpenCV cannot write this video; correct the folder's permissions")
        self._writer.write(np.ascontiguousarray(page[:, :, ::-1]))
        self._count += 1

    def close(self):
        """Finish the file; OpenCV tells nothing of a full disk, so the frames are counted."""
        self._writer.release()
        written = int(cv2.VideoCapture(str(self._partial)).get(cv2.CAP_PROP_FRAME_COUNT))
        if written != self._count:
            self._partial.unlink(missing_ok=True)
            raise InputError(
                f"{self.path}: only {written} of {self._count} frames were written; free space on the disk"
            )
        os.replace(self._partial, self.path)
