"""Pictures of feature spaces: t-SNE, and panels of points side by side. Needs the extra `figures`."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE

from usss_jax.errors import InputError

MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*", "<", ">", "p", "h")  # one per domain
_PANEL = 5.2  # inches


def tsne(features: np.ndarray, perplexity: float, seed: int) -> tuple[np.ndarray, float]:
    """Embed the rows of [P, C] in the plane: (float32 [P, 2], final Kullback-Leibler divergence).

    Raises:
      InputError: if there are too few points for the perplexity.
    """
    if len(features) <= perplexity:
        raise InputError(
            f"perplexity={perplexity:g} needs more than {len(features)} points; raise --pixels or lower --perplexity"
        )
    method = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return method.fit_transform(features), float(method.kl_divergence_)


def draw_panels(panels: Sequence[tuple[str, np.ndarray]], groups: Sequence[str], domains: Sequence[str]) -> np.ndarray:
    """Draw panels of points side by side, with a colour per group and a marker per domain: uint8 [h, w, 3].

    Args:
      panels: title and points [P, 2] of each panel.
      groups, domains: group and domain of each of the P points, the same in every panel.

    Raises:
      InputError: if there are more domains than markers.
    """
    group_names, domain_names = list(dict.fromkeys(groups)), list(dict.fromkeys(domains))
    if len(domain_names) > len(MARKERS):
        raise InputError(f"the picture has markers for {len(MARKERS)} domains, not {len(domain_names)}; choose fewer")
    colors = dict(zip(group_names, _colors(len(group_names)), strict=True))
    markers = dict(zip(domain_names, MARKERS, strict=False))
    figure = Figure(figsize=(_PANEL * len(panels) + 2.6, _PANEL + 0.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(title=title, xticks=[], yticks=[])
        for group in group_names:
            for domain in domain_names:
                chosen = (np.asarray(groups) == group) & (np.asarray(domains) == domain)
                axes.scatter(
                    *points[chosen].T,
                    s=26,
                    marker=markers[domain],
                    facecolor=colors[group],
                    edgecolor="black" if domain == domain_names[0] else "white",
                    linewidth=0.4,
                    alpha=0.85,
                )
    handles = [_legend_entry(markers[domain], "white", domain) for domain in domain_names]
    handles += [_legend_entry("s", colors[group], group) for group in group_names]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=11)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _legend_entry(marker, color, label) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=color, label=label, ms=8, markeredgecolor="black", mew=0.4)


def _colors(count: int) -> list:
    """Distinct colours, as RGBA."""
    if count <= 20:
        return list(matplotlib.colormaps["tab10" if count <= 10 else "tab20"](range(count)))
    return list(matplotlib.colormaps["hsv"](np.linspace(0, 1, count, endpoint=False)))
