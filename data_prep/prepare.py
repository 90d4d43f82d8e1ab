"""The command line of all data sets: flags, report, errors."""

import contextlib
import functools
import json
import os
import pathlib
import re
import sys

from absl import app, flags, logging

from data_prep import report
from usss_jax import signals
from usss_jax.data.domains import get_domain
from usss_jax.data.progress import Progress
from usss_jax.data.records import import_tfds
from usss_jax.data.sizes import check_orientation, height_width
from usss_jax.errors import InputError
from usss_jax.local_files import line_of, local_path

try:
    import_tfds()
    from data_prep.builder import DomainBuilder, RecordsConfig
except InputError as error:  # not in `run`, as every command defines a tfds builder when imported
    print(f"data_prep: error: {error}", file=sys.stderr)
    sys.exit(2)

SOURCE = flags.DEFINE_string("source", None, "Folder of the original data set.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder for the records of all data sets.")
DOMAIN = flags.DEFINE_string("domain", None, "One of the data set's domains, or a .yaml file.")
SIZE = flags.DEFINE_string("size", None, "HEIGHTxWIDTH of the records; default: keep the original files.")
IMAGE_FORMAT = flags.DEFINE_enum("image_format", "png", ["png", "jpeg"], "Of resized images; jpeg is lossy.")
ON_BAD_EXAMPLE = flags.DEFINE_enum("on_bad_example", "error", ["error", "skip"], "skip: leave out damaged files.")
MISSING_MASK = flags.DEFINE_enum("missing_mask", "error", ["error", "keep"], "keep: allow images without label.")
WORKERS = flags.DEFINE_integer("workers", os.cpu_count(), "Number of threads.", lower_bound=1)


def prepare(builder_class: type[DomainBuilder], config: RecordsConfig, data_dir: str) -> dict:
    """Prepare one data set unless it is already prepared; print and return the report."""
    builder = builder_class(data_dir=data_dir, config=config, file_format="array_record")
    folder = pathlib.Path(builder.data_dir)
    prepared = folder.exists()
    if not prepared:
        print(f"preparing {folder}", flush=True)
    with contextlib.closing(Progress()) as progress:
        builder.download_and_prepare(progress=progress.start)
    if prepared:  # and complete
        print(f"{folder}: is prepared already")
    result = json.loads((folder / report.FILE).read_text("utf-8"))
    print(report.as_text(result))
    print(f"\ntrain with {_fields(config, data_dir)}", flush=True)
    return result


def _fields(config: RecordsConfig, data_dir: str) -> str:
    """Config fields to train on these records: their folder and, if not the domain's, their size."""
    root, domain = f"--config.data.root=tfds:{data_dir}", config.domain
    if config.size in (None, domain.size):
        return root
    return f"{root} --config.data.image_size={domain.name}={height_width(config.size)}"


def run(builder_class: type[DomainBuilder], argv: list[str] | None = None) -> None:
    """Prepare a data set according to the flags; wrong input prints one line to stderr and exits with code 2."""
    logging.set_verbosity(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):  # consoles with another encoding show escapes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signals.end_in_one_line("data_prep: stopped; run again to resume: finished shards are kept")
    try:
        app.run(functools.partial(_main, builder_class), argv=argv, flags_parser=_parse_flags)
    except InputError as error:
        _stop(f"error: {error}", 2)
    except OSError as error:
        _stop(f"error: {line_of(error)}", 2)


def _stop(line, code):
    sys.stdout.flush()
    print(f"data_prep: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


def _parse_flags(argv):
    for flag in flags.FLAGS.flags_by_module_dict()[__name__]:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # so that --help shows it
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise InputError(str(error).strip().splitlines()[-1]) from error


def _main(builder_class, argv):
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; give --source=DIR --data_dir=DIR")
    domain = _domain(builder_class)
    source = SOURCE.value or (domain.folder if os.path.isabs(domain.folder) else None)
    for flag, value in (("source", source), ("data_dir", DATA_DIR.value)):
        if not value:
            raise InputError(f"--{flag} is missing; give --source=DIR --data_dir=DIR")
    config = RecordsConfig(
        domain=domain,
        source=str(local_path(str(source), "--source")),
        size=_size(domain),
        image_format=IMAGE_FORMAT.value,
        on_bad_example=ON_BAD_EXAMPLE.value,
        missing_mask=MISSING_MASK.value,
        workers=WORKERS.value,
    )
    prepare(builder_class, config, os.path.abspath(local_path(str(DATA_DIR.value), "--data_dir")))


def _domain(builder_class):
    """Domain of the flags: one of the data set's, or a YAML file if it has none."""
    known = builder_class.domains
    name = DOMAIN.value or (known[0] if known else "")
    if known and name not in known:
        raise InputError(f"--domain={name}: this data set has {', '.join(known)}")
    if not known and not name.endswith((".yaml", ".yml")):
        raise InputError(f"--domain={name}: give the .yaml file of your domain")
    return get_domain(name)


def _size(domain):
    """--size as (h, w)."""
    if SIZE.value is None:
        if IMAGE_FORMAT.value == "jpeg":
            raise InputError(
                "--image_format=jpeg is for resized images; give --size, without which files are not re-encoded"
            )
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", SIZE.value)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(0 < side < 65536 for side in size):
        raise InputError(f"--size={SIZE.value}: must be HEIGHTxWIDTH in pixels, for instance 512x1024")
    check_orientation({domain.name: domain}, {domain.name: size}, "--size")
    return size
