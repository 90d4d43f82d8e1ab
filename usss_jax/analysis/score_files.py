"""Scores of a finished run as files: tables, confusion matrices, reliability curves, differences to another run."""

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from usss_jax.analysis.differences import differences_text
from usss_jax.analysis.heatmap import draw_heatmap
from usss_jax.analysis.relations import row_shares, table
from usss_jax.analysis.reliability import draw_reliability
from usss_jax.data.domain import Domain
from usss_jax.data.examples import Source
from usss_jax.data.files import NoMasksError
from usss_jax.data.progress import Progress
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError
from usss_jax.evaluation import boundary, calibration, metrics
from usss_jax.evaluation.bootstrap import compare
from usss_jax.inference.classify import create_protocol
from usss_jax.inference.predictor import Predictor, load
from usss_jax.inference.scores import score
from usss_jax.inference.targets import Target, find_target, open_images, root_of, targets_of_run
from usss_jax.local_files import write_whole
from usss_jax.runs import logs
from usss_jax.runs.finished import FinishedJob, find_job, open_job

CONVENTIONS = {"iou": metrics.CONVENTION, "boundary": boundary.CONVENTION, "calibration": calibration.CONVENTION}


def evaluate_run(
    folder: pathlib.Path,
    domain: str,
    out: pathlib.Path,
    *,
    split: str = "test",
    data_root: str = "",
    batch_size: int | None = None,
    window: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    against: pathlib.Path | None = None,
):
    """Score a run on one or all of its domains with all devices, and write what docs/evaluate.md lists into a folder.

    evaluation.json is removed first and written last: where it is, all other files are complete and of one call.

    Args:
      folder: folder of a run or of a job (see `load`).
      domain: see `usss_jax.evaluate`; "all": those of the run that the network can predict and that have masks.
      out: folder for the outputs.
      split: "test" or "val" of every domain.
      data_root: replaces data.root of the run's config.
      batch_size, window, scales, flip: see `usss_jax.evaluate`.
      against: a second run or job, scored on the same images and compared with the first per class.

    Raises:
      InputError: if a run, the data or the protocol cannot be used; all is checked before the first prediction.
    """
    opened = [_open(run) for run in (folder, against) if run]
    (job, predictor), *others = opened
    targets = targets_of_run(job) if domain == "all" else {domain: find_target(job, domain)}
    sources = _open_sources(job, [one.domain for one in targets.values()], split, data_root, domain == "all")
    targets = {one.domain.name: one for one in targets.values() if one.domain.name in sources}
    protocols = {d: create_protocol(predictor, one.domain.size, window, scales, flip) for d, one in targets.items()}
    plans = [(predictor, targets)]
    for other, its_predictor in others:
        plans.append((its_predictor, {d: _same_target(other, one, job, domain) for d, one in targets.items()}))
    (out / "evaluation.json").unlink(missing_ok=True)
    size, found = batch_size or job.config.train.eval_batch_size, list[dict[str, dict[str, Any]]]()
    for who, of_run in plans:
        print(f"{who.job.parent / who.checkpoint} is evaluated on {', '.join(targets)}", flush=True)
        found.append({})
        for name, (split_name, source) in sources.items():
            progress = Progress()
            step = progress.start(name, len(source), 0)
            result = score(who, of_run[name], source, protocols[name], size, step)
            progress.close()
            found[-1][name] = {**result, "split": split_name}
            print(f"{scores_text(name, found[-1][name])}\n", flush=True)
    for name, one in found[0].items():
        _write_domain(out, name, one)
    write_whole(out / "scores.csv", scores_csv(found[0]))
    about = {"job": str(predictor.job), "checkpoint": predictor.checkpoint, "conventions": CONVENTIONS}
    average = metrics.average(one["miou"] for one in found[0].values())
    result = {**about, "average": average, "domains": {d: _as_json(one) for d, one in found[0].items()}}
    if others:
        result["against"] = _compare(plans[1][0], found, targets, out)
    content = json.dumps({**result, **logs.environment()}, indent=1, allow_nan=False)
    write_whole(out / "evaluation.json", content + "\n")
    print(f"wrote {out / 'evaluation.json'}")


def _open(folder: pathlib.Path) -> tuple[FinishedJob, Predictor]:
    job = open_job(find_job(folder))
    if folder != job.folder and not (folder / "table.md").exists():
        print(f"{folder} is not finished: its last finished job {job.folder.name} is used", flush=True)
    return job, load(job.folder, devices=jax.local_devices())


def _open_sources(
    job: FinishedJob, domains: Sequence[Domain], split: str, data_root: str, may_lack: bool
) -> dict[str, tuple[str, Source]]:
    """The name of the split and its images by domain; without masks a domain is left out if it may be."""
    found = {}
    for domain in domains:
        name = domain.test_split if split == "test" else domain.val_split
        try:
            found[domain.name] = name, open_images(job, domain, name, root_of(job, domain, data_root))
        except NoMasksError as e:
            if not may_lack:
                raise
            print(f"{domain.name} is not evaluated: {e.what}", flush=True)
    if not found:
        raise InputError(f"--split={split}: no domain of {job.folder} has masks in it; give one with --domain")
    return found


def _same_target(other: FinishedJob, mine: Target, job: FinishedJob, domain: str) -> Target:
    """The same domain as another job predicts it."""
    target = find_target(other, mine.domain.name if domain == "all" else domain)
    for what, one, two in (
        ("at", *(height_width(of.domain.size) for of in (target, mine))),
        ("with the classes", *(", ".join(of.domain.class_names) for of in (target, mine))),
    ):
        if one != two:
            raise InputError(
                f"--against={other.folder}: predicts {mine.domain.name} {what} {one}, {job.folder} {what} {two}; give "
                "runs with the same data.image_size and classes"
            )
    return target


def protocol_text(found: Mapping[str, Any]) -> str:
    """What a score depends on, to be shown beside it.

    >>> protocol = {"text": "size 8x8, whole images"}
    >>> protocol_text({"images": 2, "split": "val", "protocol": protocol, "checkpoint": "basic/best/4"})
    '2 images of val, size 8x8, whole images, basic/best/4'
    """
    return f"{found['images']} images of {found['split']}, {found['protocol']['text']}, {found['checkpoint']}"


def scores_text(name: str, found: Mapping[str, Any]) -> str:
    """Render the scores of a domain as a Markdown table between its protocol, and calibration and speed."""
    near = found["boundary"]
    shares = found["confusion"].sum(1) / max(1, found["confusion"].sum())
    lines = [
        f"{name}: {protocol_text(found)}",
        f"| {name}, in % | IoU | boundary IoU, d = {near['width']} pixels | labeled pixels |",
        "|---|---|---|---|",
    ]
    rows = [(c, found["iou"][c], near["iou"][c], share) for c, share in zip(found["iou"], shares, strict=True)]
    for title, *values in [*rows, ("mean", found["miou"], near["miou"], None)]:
        lines.append(f"| {title} | {' | '.join(map(metrics.percent, values))} |")
    speed = found["images_per_second"]
    later = f", {speed:.2f} images/s after the first batch" if speed else ""
    error = f"ECE {metrics.percent(found['calibration']['ece'])} % ({calibration.BINS} bins)"
    return "\n".join([*lines, f"{name}: {error}; {found['seconds']:.1f} s{later}"])


def scores_csv(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Render the scores of all domains as CSV: a row per class and one of means, each with its protocol."""
    rows: list[Sequence[Any]] = [("domain", "class", "iou", "boundary_iou", "labeled_pixels", "protocol")]
    for name, one in found.items():
        near, text = one["boundary"], protocol_text(one)
        for title, pixels in zip(one["iou"], one["confusion"].sum(1).tolist(), strict=True):
            rows.append((name, title, one["iou"][title], near["iou"][title], pixels, text))
        rows.append((name, "mean", one["miou"], near["miou"], one["confusion"].sum(), text))
    return _csv(rows)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_domain(out: pathlib.Path, name: str, found: Mapping[str, Any]):
    """Write confusion matrix and reliability curve of a domain, as CSV and PNG."""
    names, text, of = list(found["iou"]), protocol_text(found), found["calibration"]
    corner = f"label \\ prediction, pixels; {text}"
    write_whole(out / f"{name}_confusion.csv", table(found["confusion"], names, names, corner))
    title = f"{name}: predictions (columns) of each class, in %; {text}"
    draw_heatmap(out / f"{name}_confusion.png", row_shares(found["confusion"]), names, names, title)
    bins = of["bins"]
    rows = [[*bins[0], "protocol"], *([*one.values(), text] for one in bins)]
    write_whole(out / f"{name}_reliability.csv", _csv(rows))
    title_lines = [f"{name}: ECE {metrics.percent(of['ece'])} %", text]
    draw_reliability(out / f"{name}_reliability.png", bins, title_lines)


def _as_json(found: Mapping[str, Any]) -> dict[str, Any]:
    whole = {key: value for key, value in found.items() if key != "image_confusions"}
    return {**whole, "confusion": found["confusion"].tolist()}


def _compare(
    second: Predictor, found: Sequence[Mapping[str, Any]], targets: Mapping[str, Target], out: pathlib.Path
) -> dict[str, Any]:
    """Compare two runs, and write differences.md."""
    one, two = ({d: of["image_confusions"] for d, of in scored.items()} for scored in found)
    differences = compare(one, two)
    text = differences_text(differences, {d: target.domain.class_names for d, target in targets.items()})
    protocols = [f"{d}: {protocol_text(of)}; against {found[1][d]['checkpoint']}" for d, of in found[0].items()]
    text = "\n".join([*protocols, "", text])
    print(f"{text}\n")
    write_whole(out / "differences.md", f"{text}\n")
    domains = {d: _as_json(of) for d, of in found[1].items()}
    return {"job": str(second.job), "checkpoint": second.checkpoint, "domains": domains, "differences": differences}
