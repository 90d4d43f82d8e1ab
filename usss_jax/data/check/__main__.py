"""Entry point: check data before training, and report all faults at once.

python -m usss_jax.data.check --config=configs/cs_cvd.py --config.data.root=DATA
python -m usss_jax.data.check --domain=mine.yaml [--data_root=DATA]
python -m usss_jax.data.check --domain=mine.yaml --pseudo_labels=FOLDER [--truth=train]

Exit code 1: there are faults, which must be fixed: whatever would stop training, an image without its mask or a mask
without its image, an unreadable file, an image twice in a split or in both training and evaluation, a labeled image
among the unlabeled ones despite data.unlabeled_includes_labeled=False, a class without a pixel in any mask. Exit code
0: there are none. Warnings alone leave the exit code at 0: classes missing from one split or from the chosen labeled
images, mostly ignored masks, other images that two splits share. Exit code 2: the flags are wrong.

A domain without labels in the config (data.labeled_per_domain=NAME=0) needs no masks. Unlike training, the check opens
every mask of every split, also those of unlabeled images.

With --pseudo_labels, the check opens a folder of pseudo-labels of one of the domains instead of the domains. Faults are
files that are missing, unreadable, of another size or with unknown classes, pseudo-labels without an image, and a
manifest of other classes. With --truth=SPLIT it also opens the masks of that split, and prints which share of the
pixels of every class has a pseudo-label, and which share of those is right.
"""

import contextlib
import dataclasses
import json
import time
from typing import Any

from absl import flags

from usss_jax import cli
from usss_jax.config import checked, names
from usss_jax.data.check.contents import DomainReport
from usss_jax.data.check.domain import check_domain, uses_of
from usss_jax.data.check.findings import FAULT, WARNING, Finding, find_faults, plural
from usss_jax.data.check.labeled import Labeled, check_labeled
from usss_jax.data.check.pseudo_labels import check_pseudo_labels
from usss_jax.data.check.report import domain_json, domain_text, findings_text
from usss_jax.data.check.sheet import draw_sheet
from usss_jax.data.check.truth import compare_with_masks, truth_text
from usss_jax.data.class_map import run_domains
from usss_jax.data.domain import Domain
from usss_jax.data.options import Options, domain_root, read_options
from usss_jax.data.pictures import save_png
from usss_jax.data.progress import Progress
from usss_jax.data.pseudo_label_files import read_manifest
from usss_jax.data.sources import open_source
from usss_jax.data.splits import split_hash
from usss_jax.errors import InputError
from usss_jax.local_files import check_paths, write_whole

flags.declare_key_flag("config")  # so that --help shows it
DOMAIN = flags.DEFINE_string("domain", None, "Domain to check, by name or YAML file; several with commas.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "With --domain: the config field data.root.")
OUT = flags.DEFINE_string("out", "check", "Folder for check.json and one picture per domain.")
PSEUDO_LABELS = flags.DEFINE_string("pseudo_labels", None, "Folder of pseudo-labels to check instead of the domains.")
TRUTH = flags.DEFINE_string("truth", "", "With --pseudo_labels: split whose masks they are compared with.")
LIMIT = flags.DEFINE_integer("limit", None, "Open only that many images of each split, spread through the ids.", 1)
THREADS = flags.DEFINE_integer("threads", 4, "Number of threads that open files.", 1)


@dataclasses.dataclass(frozen=True)
class Task:
    """A domain to check: its folder, and how the config uses its images (None without a config)."""

    domain: Domain
    root: str | None
    options: Options | None = None
    least_classes: int = 2


def main(argv: list[str]) -> int:
    """Check the domains of the flags, print the report and write it to --out; return the exit code."""
    tasks = read_tasks(argv)
    out = cli.folder_of(OUT)
    _write(out / "check.json", "{}")  # raises now if the folder is not writable
    started = time.monotonic()
    findings: list[Finding] = []
    content: dict[str, Any] = {}
    labeled: dict[str, Labeled | None] = {}
    for task in tasks:
        name = task.domain.name
        report, found = examine(task)
        if task.options and not report.error and not PSEUDO_LABELS.value:
            labeled[name], more = check_labeled(report, task.options, found, task.least_classes)
            found += more
        sheet = draw_sheet(report)
        if sheet is not None:
            save_png(out / f"{name}.png", sheet)
        content[name] = domain_json(report, labeled.get(name))
        if TRUTH.value and not report.error:
            content[name]["truth"] = truth = compare_with_masks(
                report.domain, task.root, cli.folder_of(PSEUDO_LABELS), TRUTH.value, LIMIT.value
            )
            print(truth_text(report.domain, truth), end="\n\n", flush=True)
        findings += found
        print(domain_text(report, labeled.get(name)), end="\n\n", flush=True)

    chosen = {name: one.ids for name, one in labeled.items() if one}
    code = split_hash({name: ids for name, ids in chosen.items() if ids}) if len(chosen) == len(tasks) else None
    lines = [dataclasses.asdict(finding) for finding in findings]
    everything = {"domains": content, "split_hash": code, "limit": LIMIT.value, "findings": lines}
    _write(out / "check.json", json.dumps(everything, indent=1) + "\n")
    if code:
        print(f"split hash of the labeled images: {code}")
    if findings:
        print(findings_text(findings), end="\n\n")
    faults, warnings = (sum(f.level == level for f in findings) for level in (FAULT, WARNING))
    partly = f"; only up to {LIMIT.value} images of each split were opened" if LIMIT.value else ""
    seconds = time.monotonic() - started
    print(f"{plural(faults, 'fault')}, {plural(warnings, 'warning')} in {seconds:.1f} s{partly}; see {out}/")
    return 1 if faults else 0


def read_tasks(argv: list[str]) -> list[Task]:
    """Read the flags; raise InputError for wrong ones."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; fields are set by --config.SECTION.FIELD=VALUE")
    by_config = bool(flags.FLAGS["config"].present)
    if by_config == bool(names(DOMAIN.value or "")):
        raise InputError("give either --config=configs/cs_cvd.py or --domain=camvid (a name or a YAML file)")
    if by_config and DATA_ROOT.value:
        raise InputError("--data_root goes with --domain; with a config it is --config.data.root")
    if TRUTH.value and not PSEUDO_LABELS.value:
        raise InputError(f"--truth={TRUTH.value} goes with --pseudo_labels=FOLDER")
    check_paths(f"{DOMAIN.value},{DATA_ROOT.value}", "--domain or --data_root")
    config = checked(cli.CONFIG.value) if by_config else None
    if config and "domains" not in config.data:
        raise InputError(f"method={config.method} has no domains to check")
    named = config.data.domains if config else names(str(DOMAIN.value))
    domains = run_domains(named, config.data.class_map if config else "")
    known = [domain.name for domain in domains]
    if len(set(known)) < len(known):
        raise InputError(f"domains {', '.join(known)}: two have the same name; rename one in its file")
    options = read_options(config, dict(zip(known, domains, strict=True))) if config else {}
    least = config.data.min_classes if config else 2
    data_root = config.data.root if config else DATA_ROOT.value
    try:
        tasks = [Task(d, domain_root(data_root, d, known), options.get(d.name), least) for d in domains]
    except InputError as error:
        raise error if config else InputError(str(error).replace("--config.data.root", "--data_root")) from error
    return _with_pseudo_labels(tasks) if PSEUDO_LABELS.value else tasks


def _with_pseudo_labels(tasks):
    """The domain of the pseudo-labels."""
    folder = cli.folder_of(PSEUDO_LABELS)
    name = read_manifest(folder).get("domain")
    found = [task for task in tasks if task.domain.name == name]
    if not found:
        given = ", ".join(task.domain.name for task in tasks)
        raise InputError(f"--pseudo_labels={folder} belongs to the domain {name!r}, not to {given}; give that domain")
    return found


def examine(task: Task) -> tuple[DomainReport, list[Finding]]:
    """Open the files of a domain and judge them."""
    options = task.options or Options()
    with contextlib.closing(Progress()) as progress:
        if PSEUDO_LABELS.value:
            folder, shared = cli.folder_of(PSEUDO_LABELS), (THREADS.value, LIMIT.value, progress.start)
            return check_pseudo_labels(task.domain, task.root, folder, options, *shared)
        report = check_domain(
            task.domain,
            task.root,
            uses_of(task.domain, options.unlabeled_splits, options.without_labels),
            size=options.size,
            threads=THREADS.value,
            limit=LIMIT.value,
            progress=progress.start,
        )
    found = find_faults(report, bool(options.labeled_list), options.without_labels, task.least_classes)
    if report.error and (hint := _own_folder(task)):
        found = [dataclasses.replace(found[0], remedy=hint)]
    return report, found


def _own_folder(task):
    """Hint for --data_root=DATA/camvid, where DATA was meant."""
    if not DATA_ROOT.value:
        return ""
    folder, name = cli.folder_of(DATA_ROOT), task.domain.name
    try:
        open_source(task.domain, str(folder), "train", with_masks=False)
    except InputError:
        return ""
    return f"data_root is the folder of all domains: give --data_root={folder.parent} or --data_root={name}={folder}"


def _write(path, text):
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"--out: cannot write {path} ({error.strerror}); give another folder") from error


if __name__ == "__main__":
    cli.run(main)
