"""Table of mIoU of a finished run."""

from collections.abc import Iterable, Mapping, Sequence

from usss_jax.config.rounds import round_of, variant_of
from usss_jax.config.usss import UNIVERSAL, VARIANTS
from usss_jax.evaluation.metrics import CONVENTION, average, percent


def title(job: str) -> str:
    """Title of the row of a job that trains one network for all domains.

    >>> title("full"), title("self_round0")
    ('Univ-full', 'Univ-basic, self-training, round 0')
    """
    variant = variant_of(job)
    about = VARIANTS[variant]
    return about.title if variant == job else f"{about.title}, round {round_of(job)}"


def universal_jobs(jobs: Iterable[str]) -> list[str]:
    """Those of some jobs that train one network for all domains, in the order of the rows.

    >>> universal_jobs(["self_round10", "self_round2", "single_city", "basic"])
    ['basic', 'self_round2', 'self_round10']
    """

    def place(job: str) -> tuple[int, int]:
        variant = variant_of(job)
        return UNIVERSAL.index(variant), 0 if variant == job else round_of(job)

    return sorted((job for job in jobs if variant_of(job) in UNIVERSAL), key=place)


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
    for variant, about in VARIANTS.items():
        jobs = {d: f"{variant}_{d}" for d in domains if about.per == "domain" and f"{variant}_{d}" in summaries}
        if jobs:
            rows[f"{about.title} (one network per domain)"] = {
                d: summaries[job]["domains"][d] for d, job in jobs.items()
            }
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
    for job in universal_jobs(summaries):
        others = {d: s for d, s in summaries[job].get("without_labels", {}).items() if "miou_best" in s}
        scored |= {d: f"{d} ({s['split']}), decoder of {s['scored_by']}" for d, s in others.items()}
        rows[title(job)] = summaries[job]["domains"] | others
    splits = {d: scores["split"] for row in rows.values() for d, scores in row.items()}
    heads = [f"{d} ({splits[d]})" for d in domains]
    lines = [
        f"mIoU in %, best checkpoint / last step. {CONVENTION}.",
        "",
        "| | " + " | ".join([*heads, "average", *scored.values()]) + " |",
    ]
    lines.append("|---" * (len(domains) + 2 + len(scored)) + "|")
    for head, scores in rows.items():
        cells = {d: [scores.get(d, {}).get(f"miou_{which}") for which in ("best", "last")] for d in (*domains, *scored)}
        both = [[cells[d][i] for d in domains] for i in range(2)]
        averages = [average(row) if None not in row else None for row in both]
        pairs = [*(cells[d] for d in domains), averages, *(cells[d] for d in scored)]
        lines.append(f"| {head} | " + " | ".join(f"{percent(a)} / {percent(b)}" for a, b in pairs) + " |")
    return "\n".join(lines) + "\n"
