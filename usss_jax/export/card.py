"""The model card of a finished network, in Markdown: data, scores with their protocol, limits, licences."""

import pathlib
from collections.abc import Mapping
from typing import Any

from usss_jax import packages
from usss_jax.data.sizes import height_width
from usss_jax.local_files import read_object
from usss_jax.models.universal import UniversalModel
from usss_jax.runs.finished import FinishedJob

HARDLY = 0.1  # IoU below which the card says that a class is hardly found


def model_card(job: FinishedJob, model: UniversalModel) -> str:
    """Describe a network for those who might use it; what the run does not say is not guessed."""
    data = _data(job.folder.parent / "data.json")
    parts = [_head(job, model), _use(job), _data_text(job, data), _scores(job), _limits(job), _licences(job, data)]
    return "\n\n".join([*parts, _training(job)]) + "\n"


def _head(job: FinishedJob, model: UniversalModel) -> str:
    front = ["library_name: usss_jax", "pipeline_tag: image-segmentation", "tags: [semantic-segmentation, jax, flax]"]
    network = job.network
    spaces = " and ".join(f"{name} ({len(of['classes'])} classes)" for name, of in network["decoders"].items())
    size = f"width {network['width']:g}, stride {network['stride']}, {network['precision']}"
    return "\n".join(
        [
            "---",
            *front,
            "---",
            "",
            f"# {job.folder.absolute().parent.name}/{job.folder.name}",
            "",
            f"Semantic segmentation in the label spaces of {spaces}: one encoder, {network['encoder']} ({size}), and a "
            f"decoder for each, at {model.stride} pixels per cell.",
        ]
    )


def _use(job: FinishedJob) -> str:
    domain = next(iter(job.network["decoders"]))
    return f"""## Use

```python
import usss_jax

predictor = usss_jax.load("THIS_FOLDER")
labels = predictor.predict(image, domain="{domain}")  # uint8 [H, W, 3] -> class of every pixel, uint8 [H, W]
```

`config.json` has the network, the classes with their colours, the sizes of the images and their normalisation;
`model.safetensors` has the parameters and batch statistics in float32."""


def _data(path: pathlib.Path) -> dict[str, Any]:
    """Content of the run's data.json; empty without one, as for a job that was moved out of its run."""
    return read_object(path) if path.is_file() else {}


def _data_text(job: FinishedJob, data: Mapping[str, Any]) -> str:
    lines = ["## Data", "", f"Of the run; the hash of its splits is `{job.summary.get('split_hash')}`.", ""]
    kinds = ("labeled images", "unlabeled images", "images of val", "images of test")
    lines += [f"| domain | image size | {' | '.join(kinds)} |", "|---" * (2 + len(kinds)) + "|"]
    for name, decoder in job.network["decoders"].items():
        of = data.get("domains", {}).get(name, {})
        lines.append(f"| {name} | {height_width(decoder['size'])} | {' | '.join(str(of.get(k, '-')) for k in kinds)} |")
    if not data:
        lines += ["", "The run's data.json was not found, so numbers of images and their hashes are not known."]
    return "\n".join(lines)


def _scores(job: FinishedJob) -> str:
    lines, scored = ["## Scores", ""], _scored(job)
    if not scored:
        return "\n".join([*lines, "The run has no scores."])
    lines += [f"Checkpoint: step {job.summary['best_step']}, the best one by validation.", ""]
    lines += ["| domain | split | image size | mIoU in % |", "|---|---|---|---|"]
    for name, of in scored.items():
        same = " (also chose the checkpoint)" if of["split"] == of["val_split"] else ""
        lines.append(
            f"| {name} | {of['split']}{same} | {height_width(of['image_size'])} | {_percent(of['miou_best'])} |"
        )
    lines += ["", f"Whole images at these sizes, one scale, no flip; {job.summary['convention']}.", ""]
    for name, of in scored.items():
        lines += [f"IoU in % of the classes of {name}: {_by_class(of['iou'])}.", ""]
    return "\n".join(lines).rstrip()


def _scored(job: FinishedJob) -> dict[str, Any]:
    """Scores by domain; a domain without labels may have none."""
    every = {**job.summary.get("domains", {}), **job.summary.get("without_labels", {})}
    return {name: of for name, of in every.items() if "iou" in of}


def _by_class(iou: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {_percent(value)}" for name, value in iou.items())


def _percent(value: float | None) -> str:
    return "absent" if value is None else f"{100 * value:.2f}"


def _limits(job: FinishedJob) -> str:
    lines = [
        "## Limits",
        "",
        "- The scores hold for images like those of the splits, at the sizes above. Other cameras, places, weather or "
        "sizes were not measured.",
        "- Every pixel gets one of the classes of the chosen label space, also where none of them fits.",
        "- The probabilities are not calibrated. Do not use the network where an error could harm someone.",
    ]
    for name, of in _scored(job).items():
        if hardly := [c for c, value in of["iou"].items() if value is not None and value < HARDLY]:
            lines.append(f"- Hardly found in {name} (IoU below {100 * HARDLY:.0f} %): {', '.join(hardly)}.")
    lines += [f"- {name} was trained without its labels." for name in job.summary.get("without_labels", {})]
    return "\n".join(lines)


def _licences(job: FinishedJob, data: Mapping[str, Any]) -> str:
    return f"""## Licences

- usss_jax, which trained and reads the network: Apache-2.0.
- Initial weights of the encoder: {_weights(job, data)}
- The data sets have licences of their own, which may limit what the network may be used for."""


def _weights(job: FinishedJob, data: Mapping[str, Any]) -> str:
    given, encoder = job.config.model.pretrained, job.network["encoder"]
    if not given:
        return "none, it was trained from random weights."
    if given == packages.IMAGENET:
        known = packages.WEIGHTS[encoder]
        licence = packages.licence(encoder) or "not known here, since the package is not installed"
        return f"ImageNet weights of the package {known.package} (SHA-256 {known.sha256}); its licence: {licence}."
    digest = str(data.get("files", {}).get("model.pretrained", "")).removeprefix("sha256 ")
    name = pathlib.PurePath(given).name
    return f"{name} (SHA-256 {digest or 'not known'}), whose licence usss_jax does not know; add it here."


def _training(job: FinishedJob) -> str:
    summary = job.summary
    versions = ", ".join(f"{name} {version}" for name, version in summary.get("versions", {}).items() if version)
    facts = {
        "method and job": f"{job.config.method}, {job.title}",
        "steps": summary.get("steps"),
        "seed": job.config.train.seed,
        "device": summary.get("device"),
        "commit of usss_jax": summary.get("commit"),
        "versions": versions,
    }
    return "\n".join(["## Training", "", *(f"- {name}: {value}" for name, value in facts.items() if value is not None)])
