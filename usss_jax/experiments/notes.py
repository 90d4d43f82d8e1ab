"""Notes below a table: seeds, splits, device and what else its rows share."""

from usss_jax.experiments.found import Found
from usss_jax.experiments.summaries import all_domains, kind, value, weights


def convention(found: Found) -> str:
    """Return how the summaries define mIoU, and how the table shows several seeds."""
    definitions = sorted({summary.get("convention", "") for _, _, summary in found.all()} - {""})
    spread = "With several seeds: mean ± sample standard deviation."
    return " ".join([*(f"{text}." for text in definitions), spread])


def notes(found: Found) -> list[str]:
    """List split, seeds, encoder, weights, sizes, steps, devices, versions and commits behind the numbers."""
    if not found.summaries:
        return ["Nothing was run."]
    splits = {s["split_hash"] for _, _, s in found.all()}
    universal = {s["split_hash"] for job, _, s in found.all() if kind(job) == "universal"}
    split = (
        f"Split {', '.join(sorted(universal or splits))}, split_seed {each(found, 'data.split_seed')}; seeds (of the "
        f"weights and the order of the images) {each(found, 'train.seed')}."
    )
    return [split, *shared_notes(found, steps(found))]


def each(found: Found, name: str) -> str:
    """List the values of a config field."""
    return ", ".join(sorted({str(value(summary, name)) for _, _, summary in found.all()}))


def shared_notes(found: Found, steps: str) -> list[str]:
    """List encoder, weights, sizes, steps, devices, versions and commits, and the fields of every row."""
    summaries = [summary for _, _, summary in found.all()]
    devices = sorted({summary.get("device", "unknown") for summary in summaries})
    commits = sorted({short_commit(summary.get("commit")) for summary in summaries})
    files = ", ".join(sorted({weights(summary) for summary in summaries} - {""}))
    initial = files or "none: random weights, unlike the paper (ImageNet's)"
    jax = sorted({summary.get("versions", {}).get("jax", "unknown") for summary in summaries})
    encoder, width = each(found, "model.encoder"), each(found, "model.width")
    out = [
        f"Encoder {encoder}, width {width}, pretrained {initial}; images {sizes(found)}; steps {steps}.",
        f"Device {', '.join(devices)}; precision {each(found, 'model.precision')}; jax {', '.join(jax)}; "
        f"commit {', '.join(commits)}.",
    ]
    given = {job: s["row"]["overrides"] for job, _, s in found.all() if s.get("row", {}).get("overrides")}
    for job, overrides in given.items():
        out.append(f"{job}: {', '.join(f'{field}={value}' for field, value in overrides.items())}.")
    return out


def steps(found: Found) -> str:
    """List the steps of every kind of job."""
    kinds = {kind(job): summary["steps"] for job, _, summary in found.all()}
    return ", ".join(f"{count} ({kind})" for kind, count in kinds.items())


def sizes(found: Found) -> str:
    """List the image size of every domain."""
    domains = {d: about["image_size"] for _, _, s in found.all() for d, about in all_domains(s).items()}
    return ", ".join(f"{d} {h}x{w}" for d, (h, w) in domains.items())


def short_commit(commit: str | None) -> str:
    """Shorten a commit to seven digits, noting whether files differed from it.

    >>> short_commit("571bebe1f00d+3 files"), short_commit(None)
    ('571bebe+changes', 'unknown')
    """
    base, plus, _ = (commit or "unknown").partition("+")
    return base[:7] + ("+changes" if plus else "")
