"""Picture of the predictions of a run's networks."""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np

from usss_jax.data import pictures
from usss_jax.data.domain import palette
from usss_jax.data.pools import Pools
from usss_jax.evaluation.evaluate import predict
from usss_jax.methods.training import Run
from usss_jax.parallel import hosts, sharding
from usss_jax.runs.networks import load_best


def draw_predictions(run: Run, titles: Mapping[str, str], decoders: Mapping[str, Sequence[str]]):
    """Write predictions.png: image, truth and the prediction of every job's best checkpoint, two images per domain.

    Args:
      run: the run.
      titles: of the columns, by job.
      decoders: names of the decoders that are shown for each domain.
    """
    examples = {}
    for domain, pool in run.pools.items():
        source = pool.test if len(pool.test) else pool.unlabeled
        examples[domain] = [source[i] for i in sorted({0, len(source) // 2})]
    pairs = [(d, decoder) for d in run.pools for decoder in decoders[d]]
    predictions = {}
    for job in titles:
        model, variables, _, _ = load_best(run.workdir / job, run.mesh)
        for domain, decoder in pairs:
            images = np.stack([e["image"] for e in examples[domain]])
            on_all = sharding.replicated(run.mesh)
            predictor = jax.jit(partial(predict, domain=decoder, model=model), out_shardings=on_all)
            predictions[job, domain, decoder] = np.asarray(predictor(variables, images))
    if hosts.is_writer():
        draw_comparison(run.workdir / "predictions.png", run.pools, examples, predictions, titles)


def draw_comparison(
    path: pathlib.Path,
    pools: Mapping[str, Pools],
    examples: Mapping[str, Sequence[dict]],
    predictions: Mapping[tuple[str, str, str], np.ndarray],
    titles: Mapping[str, str],
):
    """Write a PNG with a row per example and decoder: image, truth, and the prediction of every job.

    Args:
      path: of the picture.
      pools: per domain.
      examples: per domain [{"image": uint8 [h, w, 3], "label": uint8 [h, w]}]; without "label" the truth is white.
      predictions: per (job, domain, decoder) train ids int [number of examples, h, w].
      titles: of the columns after image and truth, by job.
    """
    rows, shown = [], {}
    colors = {d: palette(p.domain) for d, p in pools.items()}
    one_decoder = len({decoder for _, _, decoder in predictions}) == 1
    for domain, decoder in dict.fromkeys((domain, decoder) for _, domain, decoder in predictions):
        for i, example in enumerate(examples[domain]):
            image, truth = example["image"], np.full_like(example["image"], 255)
            if "label" in example:
                truth = pictures.colorize(example["label"], colors[domain])
                shown[domain] = True
            maps = [np.asarray(predictions[job, domain, decoder][i], np.uint8) for job in titles]
            tiles = [image, truth, *(pictures.colorize(m, colors[decoder]) for m in maps)]
            own = domain == decoder or one_decoder
            rows.append(pictures.Row(domain if own else f"{domain}, decoder of {decoder}", tiles))
    legends: dict[str, list] = {}
    for domain in shown:
        legend = [(c.name, c.color) for c in pools[domain].domain.classes]
        if legend not in legends.values():
            legends[domain] = legend
    picture = pictures.comparison(rows, ["image", "truth", *titles.values()], legends)
    pictures.save_png(path, picture)
