"""Table of mIoU and picture of predictions of a finished run."""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import numpy as np

from usss_jax.data import pictures
from usss_jax.data.domain import palette
from usss_jax.data.pools import Pools, with_labels
from usss_jax.evaluation.evaluate import predict
from usss_jax.evaluation.metrics import CONVENTION, average, percent
from usss_jax.methods.segmentation import Run
from usss_jax.parallel import hosts, sharding
from usss_jax.runs.networks import load_best

PER_DOMAIN = {"single": "single (one network per domain)", "hung": "Hung et al. (one network per domain)"}
TITLES = {"basic": "Univ-basic", "cross": "Univ-cross", "full": "Univ-full", "direct": "direct entropy"}


def results_table(summaries: Mapping[str, Mapping], domains: Sequence[str]) -> str:
    """Markdown table of mIoU in per cent, best checkpoint / last step; single-domain networks share a row.

    Args:
      summaries: by job.
      domains: domains with labels, in the order of the columns; their average and other scored domains follow.

    >>> scores = {"miou_best": 0.5, "miou_last": 0.25, "split": "val"}
    >>> print(results_table({"basic": {"domains": {"city": scores}}}, ["city"]).splitlines()[-1])
    | Univ-basic | 50.00 / 25.00 | 50.00 / 25.00 |
    """
    rows = {}
    for prefix, title in PER_DOMAIN.items():
        of_domains = {d: summaries[f"{prefix}_{d}"]["domains"][d] for d in domains if f"{prefix}_{d}" in summaries}
        if of_domains:
            rows[title] = of_domains
    for source in domains:
        frozen = {d: summaries[f"frozen_{source}_{d}"] for d in domains if f"frozen_{source}_{d}" in summaries}
        if frozen:
            single = summaries.get(f"single_{source}")  # None: in the workdir of single_from
            own = {source: single["domains"][source]} if single else {}
            rows[f"{source}'s encoder, frozen"] = own | {d: s["domains"][d] for d, s in frozen.items()}
        for target in domains:
            if summary := summaries.get(f"finetune_{source}_{target}"):
                rows[f"{source}, then fine-tuned on {target}"] = summary["domains"]
    scored: dict[str, str] = {}  # heads of the columns of domains without labels
    for job in (s for s in TITLES if s in summaries):
        others = {d: s for d, s in summaries[job].get("without_labels", {}).items() if "miou_best" in s}
        scored |= {d: f"{d} ({s['split']}), decoder of {s['scored_by']}" for d, s in others.items()}
        rows[TITLES[job]] = summaries[job]["domains"] | others
    splits = {d: scores["split"] for row in rows.values() for d, scores in row.items()}
    heads = [f"{d} ({splits[d]})" for d in domains]
    lines = [
        f"mIoU in %, best checkpoint / last step. {CONVENTION}.",
        "",
        "| | " + " | ".join([*heads, "average", *scored.values()]) + " |",
    ]
    lines.append("|---" * (len(domains) + 2 + len(scored)) + "|")
    for title, scores in rows.items():
        cells = {d: [scores.get(d, {}).get(f"miou_{which}") for which in ("best", "last")] for d in (*domains, *scored)}
        both = [[cells[d][i] for d in domains] for i in range(2)]
        averages = [average(row) if None not in row else None for row in both]
        pairs = [*(cells[d] for d in domains), averages, *(cells[d] for d in scored)]
        lines.append(f"| {title} | " + " | ".join(f"{percent(a)} / {percent(b)}" for a, b in pairs) + " |")
    return "\n".join(lines) + "\n"


def draw_predictions(run: Run, variants: Sequence[str]):
    """Write predictions.png: image, truth and the prediction of every variant's best checkpoint, two images per domain.

    Images of a domain without labels are shown once per decoder.
    """
    examples = {}
    for domain, pool in run.pools.items():
        source = pool.test if len(pool.test) else pool.unlabeled
        examples[domain] = [source[i] for i in sorted({0, len(source) // 2})]
    labeled = with_labels(run.pools)
    pairs = [(d, decoder) for d in run.pools for decoder in ([d] if d in labeled else labeled)]
    predictions = {}
    for variant in variants:
        model, variables, _, _ = load_best(run.workdir / variant, run.mesh)
        for domain, decoder in pairs:
            images = np.stack([e["image"] for e in examples[domain]])
            on_all = sharding.replicated(run.mesh)
            predictor = jax.jit(partial(predict, domain=decoder, model=model), out_shardings=on_all)
            predictions[variant, domain, decoder] = np.asarray(predictor(variables, images))
    if hosts.is_writer():
        draw_comparison(run.workdir / "predictions.png", run.pools, examples, predictions, variants)


def draw_comparison(
    path: pathlib.Path,
    pools: Mapping[str, Pools],
    examples: Mapping[str, Sequence[dict]],
    predictions: Mapping[tuple[str, str, str], np.ndarray],
    variants: Sequence[str],
):
    """Write a PNG with a row per example and decoder: image, truth, and the prediction of every variant.

    Args:
      path: of the picture.
      pools: per domain.
      examples: per domain [{"image": uint8 [h, w, 3], "label": uint8 [h, w]}]; without "label" the truth is white.
      predictions: per (variant, domain, decoder) train ids int [number of examples, h, w].
      variants: columns after image and truth.
    """
    rows, shown = [], {}
    colors = {d: palette(p.domain) for d, p in pools.items()}
    for domain, decoder in dict.fromkeys((domain, decoder) for _, domain, decoder in predictions):
        for i, example in enumerate(examples[domain]):
            image, truth = example["image"], np.full_like(example["image"], 255)
            if "label" in example:
                truth = pictures.colorize(example["label"], colors[domain])
                shown[domain] = True
            maps = [np.asarray(predictions[variant, domain, decoder][i], np.uint8) for variant in variants]
            tiles = [image, truth, *(pictures.colorize(m, colors[decoder]) for m in maps)]
            rows.append(pictures.Row(domain if domain == decoder else f"{domain}, decoder of {decoder}", tiles))
    legends = {d: [(c.name, c.color) for c in pools[d].domain.classes] for d in shown}
    picture = pictures.comparison(rows, ["image", "truth", *(TITLES[v] for v in variants)], legends)
    pictures.save_png(path, picture)
