"""Curves of the scalars of finished or running jobs. Needs the extra `figures`."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from usss_jax.errors import InputError
from usss_jax.local_files import reason
from usss_jax.runs.logs import read_metrics

PANEL = (6.4, 3.6)  # inches

Curves = dict[str, tuple[list[int], list[float]]]  # steps and values by name


def read_curves(folder: pathlib.Path) -> Curves:
    """Read all scalars of a job from its metrics.jsonl.

    Raises:
      InputError: if the file is missing or damaged.
    """
    path = folder / "metrics.jsonl"
    found: Curves = {}
    try:
        lines, damaged = read_metrics(path)
        if damaged:
            raise ValueError(f"{damaged} damaged line(s)")
        for values in lines:
            step = values.pop("step")
            for name, value in values.items():
                steps, of_name = found.setdefault(name, ([], []))
                steps.append(step)
                of_name.append(float("nan") if value is None else float(value))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({reason(e)}); give the folder of a job, such as RUN/teacher") from e
    return found


def panels(jobs: Mapping[str, Curves], prefixes: Sequence[str]) -> list[tuple[str, Curves]]:
    """Curves of every panel: those named as a prefix, or below it.

    Args:
      jobs: curves by title of the job.
      prefixes: such as "loss", or "kept/camvid" for itself and kept/camvid/CLASS.

    Raises:
      InputError: for a prefix that no job has.

    >>> jobs = {"basic": {"loss": ([1], [2.0]), "kept/a/sky": ([1], [0.5])}}
    >>> [(title, list(curves)) for title, curves in panels(jobs, ["kept/a"])]
    [('kept/a', ['sky'])]
    """
    out = []
    for prefix in prefixes:
        found: Curves = {}
        for title, curves in jobs.items():
            for name, curve in curves.items():
                if name == prefix or name.startswith(f"{prefix}/"):
                    words = ([title] if len(jobs) > 1 else []) + ([name[len(prefix) + 1 :]] if name != prefix else [])
                    found[": ".join(words) or "all"] = curve
        if not found:
            known = sorted({name.partition("/")[0] for curves in jobs.values() for name in curves})
            raise InputError(f"--scalars={prefix}: no job has it; there are {', '.join(known)}")
        out.append((prefix, found))
    return out


def draw_curves(shown: Sequence[tuple[str, Curves]], window: int = 1) -> np.ndarray:
    """Draw panels below each other, every curve as its mean over at most `window` logged steps: uint8 [h, w, 3].

    >>> draw_curves([("loss", {"basic": ([1, 2], [2.0, 1.0])})]).shape[2]
    3
    """
    figure = Figure(figsize=(PANEL[0] + 2.4, PANEL[1] * len(shown)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    colors = matplotlib.colormaps["tab20"](np.linspace(0, 1, 20))
    for axes, (title, curves) in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        for i, (name, (steps, values)) in enumerate(curves.items()):
            width = max(1, min(window, len(values) // 10))  # few points, such as those on val, stay as they are
            smooth = np.convolve(values, np.full(width, 1 / width), "valid")
            style = ("-" if i < len(colors) else "--") + ("o" if len(values) < 10 else "")
            axes.plot(steps[width - 1 :], smooth, style, color=colors[i % len(colors)], label=name, linewidth=1.4)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
