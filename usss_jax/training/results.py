"""What a finished run shows a person: the table of mIoU and the picture of predictions."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from usss_jax.data.domain import palette
from usss_jax.data.pools import Pools
from usss_jax.evaluation.metrics import CONVENTION
from usss_jax.inference import visualize
from usss_jax.training.loop import average, percent

PER_DOMAIN = {"single": "single (one network per domain)", "hung": "Hung et al. (one network per domain)"}
TITLES = {"basic": "Univ-basic", "cross": "Univ-cross", "full": "Univ-full", "direct": "direct entropy"}


def results_table(summaries: Mapping[str, Mapping], domains: Sequence[str]) -> str:
    """Markdown table of mIoU in per cent, best checkpoint / last step; a network per domain: one row for all."""
    rows = {}
    for prefix, title in PER_DOMAIN.items():
        of_domains = {d: summaries[f"{prefix}_{d}"]["domains"][d] for d in domains if f"{prefix}_{d}" in summaries}
        if of_domains:
            rows[title] = of_domains
    for source in domains:
        frozen = {d: summaries[f"frozen_{source}_{d}"] for d in domains if f"frozen_{source}_{d}" in summaries}
        if frozen:
            single = summaries.get(f"single_{source}")  # None: it lies in another workdir (single_from)
            own = {source: single["domains"][source]} if single else {}
            rows[f"{source}'s encoder, frozen"] = own | {d: s["domains"][d] for d, s in frozen.items()}
        for target in domains:
            if summary := summaries.get(f"finetune_{source}_{target}"):
                rows[f"{source}, then fine-tuned on {target}"] = summary["domains"]
    rows |= {TITLES[s]: summaries[s]["domains"] for s in TITLES if s in summaries}
    splits = {d: scores["split"] for row in rows.values() for d, scores in row.items()}
    heads = [f"{d} ({splits[d]})" for d in domains]
    lines = [
        f"mIoU in %, best checkpoint / last step. {CONVENTION}.",
        "",
        "| | " + " | ".join([*heads, "average"]) + " |",
    ]
    lines.append("|---" * (len(domains) + 2) + "|")
    for title, scores in rows.items():
        cells = [[scores.get(d, {}).get(f"miou_{which}") for d in domains] for which in ("best", "last")]
        averages = tuple(average(row) if None not in row else None for row in cells)
        pairs = [*zip(*cells, strict=True), averages]
        lines.append(f"| {title} | " + " | ".join(f"{percent(a)} / {percent(b)}" for a, b in pairs) + " |")
    return "\n".join(lines) + "\n"


def draw_comparison(
    path: pathlib.Path,
    pools: Mapping[str, Pools],
    examples: Mapping[str, Sequence[dict]],
    predictions: Mapping[tuple[str, str], np.ndarray],
    variants: Sequence[str],
):
    """Write a PNG with a row per example: image, truth, and the prediction of every variant.

    Args:
      path: of the picture.
      pools: per domain.
      examples: per domain {"image": uint8 [h, w, 3], "label": uint8 [h, w]}.
      predictions: per (variant, domain) train ids int [number of examples, h, w].
      variants: columns after image and truth, in their order.
    """
    rows = []
    for domain, chosen in examples.items():
        colors = palette(pools[domain].domain)
        for i, example in enumerate(chosen):
            maps = [example["label"], *(predictions[variant, domain][i] for variant in variants)]
            tiles = [example["image"], *(visualize.colorize(np.asarray(m, np.uint8), colors) for m in maps)]
            rows.append(visualize.Row(domain, tiles))
    legends = {d: [(c.name, c.color) for c in p.domain.classes] for d, p in pools.items()}
    picture = visualize.comparison(rows, ["image", "truth", *(TITLES[v] for v in variants)], legends)
    visualize.save_png(path, picture)
