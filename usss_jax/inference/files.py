"""Predictions of files: label maps, pictures, probabilities and shares of classes in a folder."""

import io
import json
import pathlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from usss_jax.data.pictures import save_png
from usss_jax.data.progress import Progress
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError
from usss_jax.inference import drawing, videos
from usss_jax.inference.batches import InMemory, batches, read_ahead
from usss_jax.inference.inputs import Photograph, conversions_text, find_files, read_photographs
from usss_jax.inference.predictor import WHOLE_PIXELS, WINDOW, Predictor, asked, load
from usss_jax.local_files import write_whole

THREADS = 4  # to read and to write
PROBABILITY_PIXELS = 2**24  # as float32 of 19 classes 1.3 GB


def predict_files(
    run: pathlib.Path,
    domain: str,
    inputs: str,
    out: pathlib.Path,
    *,
    probabilities: bool = False,
    batch_size: int = 8,
    window: int | None = None,
):
    """Predict images or a video with all devices of this process, and write what docs/predict.md lists into a folder.

    predictions.json is removed first and written last: where it is, all other files are complete and of one call.

    Args:
      run: folder of a run or of a job (see `load`).
      domain: name of a decoder; "all": every decoder.
      inputs: an image, a folder, a pattern or a video.
      out: folder for the outputs; files of an earlier call are replaced.
      probabilities: whether to write the probabilities of all classes.
      batch_size: images of equal size that are predicted together.
      window: see `Predictor.predict`.

    Raises:
      InputError: if the run, the domain or an input cannot be used; inputs are checked before the first prediction.
    """
    predictor = load(run, devices=jax.local_devices())
    domains = asked(predictor, domain)
    predictor.windows_of((1, 1), window)  # raises if it is too small
    video = videos.is_video(inputs)
    if video and probabilities:
        raise InputError(f"--probabilities: are written for images, not for a video such as {inputs}; leave it out")
    photographs = [] if video else read_photographs(find_files(inputs, out), predictor.model.encoder.stride)
    if probabilities:
        _check_probabilities(photographs)
    count = predictor.mesh.size
    named = f"{predictor.job.parent / predictor.checkpoint} predicts {', '.join(domains)}"
    print(f"{named} on {count} device{'s' * (count > 1)}", flush=True)
    (out / "predictions.json").unlink(missing_ok=True)
    if video:
        found = {"videos": videos.predict_video(predictor, domains, inputs, out, batch_size, window)}
    else:
        found = {"images": _predict_images(predictor, domains, photographs, out, probabilities, batch_size, window)}
    about = {"job": str(predictor.job), "checkpoint": predictor.checkpoint}
    known = {name: predictor.domains[name]["classes"] for name in domains}
    write_whole(out / "predictions.json", json.dumps({**about, "classes": known, **found}, indent=1) + "\n")
    print(f"wrote {out / 'predictions.json'}")


def _check_probabilities(photographs: Sequence[Photograph]):
    for one in photographs:
        if one.size[0] * one.size[1] > PROBABILITY_PIXELS:
            raise InputError(
                f"--probabilities: {one.path} has more than {PROBABILITY_PIXELS / 1e6:.0f} million pixels, whose "
                "probabilities need too much memory; leave the flag or this image out"
            )


def _predict_images(predictor, domains, photographs, out, probabilities, batch_size, window) -> dict[str, Any]:
    """Predict all images, and return their entries in predictions.json by name."""
    for line in [*conversions_text(photographs), *_sizes_text(predictor, domains, photographs, window)]:
        print(line, flush=True)
    predict = InMemory(predictor, domains, window)
    entries: dict[str, Any] = {}
    progress, began, writing = Progress(), time.monotonic(), deque()  # type: ignore[var-annotated]
    step = progress.start("predict", len(photographs), 0)

    def finish(keep: int):
        while len(writing) > keep:
            name, future = writing.popleft()
            entries[name] = future.result()
            step()

    with ThreadPoolExecutor(THREADS) as threads:
        for batch, images, count in read_ahead(threads, batches(predictor, photographs, batch_size, window)):
            filled = np.stack(images + images[-1:] * (count - len(batch)))
            labels, side = predict.labels(filled)
            likely = predict.probabilities(filled) if probabilities else {}
            finish(0)  # at most one batch is being written
            for i, one in enumerate(batch):
                mine, its = ({domain: values[i] for domain, values in of.items()} for of in (labels, likely))
                writing.append((one.name, threads.submit(_write, predictor, one, images[i], mine, its, side, out)))
        finish(0)
    progress.close()
    seconds = time.monotonic() - began
    print(f"{len(photographs)} images in {seconds:.1f} s, {len(photographs) / seconds:.2f} images/s")
    return {one.name: entries[one.name] for one in photographs}


def _sizes_text(
    predictor: Predictor, domains: Sequence[str], photographs: Sequence[Photograph], window: int | None
) -> list[str]:
    """Lines about images by windows, images much larger than in training, and how often the network is compiled."""
    sides = {one.path: predictor.windows_of(one.size, window) for one in photographs}
    by_windows, lines = [path for path, side in sides.items() if side], []
    if by_windows:
        side, limit = sides[by_windows[0]], f"above {WHOLE_PIXELS / 1e6:.1f} million pixels"
        why = f"longer than {window} pixels" if window else limit
        examples = f"{len(by_windows)} of {len(photographs)} images such as {by_windows[0]}"
        lines = [f"{examples} are {why}: predicted by windows of {side}x{side}"]
    known = {domain: predictor.domains[domain]["size"] for domain in domains}
    larger = [one for one in photographs if all(min(one.size) > 2 * min(size) for size in known.values())]
    if larger:
        trained = " and ".join(dict.fromkeys(height_width(size) for size in known.values()))
        examples = f"{len(larger)} of {len(photographs)} images such as {larger[0].path}"
        lines += [
            f"{examples} are more than twice as large as in training ({trained}): shrunk, they may be labeled better"
        ]
    sizes = {one.size for one in photographs if not sides[one.path]}
    if len(sizes) > 1:
        lines += [f"{len(sizes)} sizes: the network is compiled once for each; --window={WINDOW // 2} may need fewer"]
    return lines


def _write(
    predictor: Predictor,
    one: Photograph,
    image: np.ndarray,
    labels: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
    side: int,
    out: pathlib.Path,
) -> dict[str, Any]:
    """Write the files of one image, and return its entry in predictions.json."""
    shares = {d: drawing.shares(of, predictor.domains[d]["classes"]) for d, of in labels.items()}
    for domain, of in labels.items():
        save_png(out / "labels" / domain / f"{one.name}.png", of, drawing.colors_of(predictor.domains[domain]))
    for domain, values in probabilities.items():
        content = io.BytesIO()
        np.savez(content, probabilities=values.astype(np.float16), classes=predictor.domains[domain]["classes"])
        write_whole(out / "probabilities" / domain / f"{one.name}.npz", content.getvalue())
    save_png(out / "overlays" / f"{one.name}.png", drawing.draw(image, labels, predictor.domains, one.name, shares))
    return {"file": one.path, "size": list(one.size), "window": side, "converted": one.converted, "shares": shares}
