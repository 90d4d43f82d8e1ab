"""Entry point: scores of the network of a finished run on its domains, by class, near boundaries, and its calibration.

python -m usss_jax.evaluate --model=runs/demo --domain=all --output=scores
python -m usss_jax.evaluate --model=RUN --domain=camvid --data_root=DATA --protocol=multiscale --output=scores
python -m usss_jax.evaluate --model=RUN --domain=camvid --data_root=DATA --against=RUN2 --output=scores

docs/evaluate.md describes protocols, scores and files.
"""

from absl import flags

from usss_jax import cli
from usss_jax.config import names
from usss_jax.errors import InputError
from usss_jax.local_files import check_paths

SCALES = "0.5,0.75,1,1.25,1.5,1.75"
MODEL = flags.DEFINE_string("model", None, "Folder of a run, or of one of its finished jobs, such as runs/demo/full.")
DOMAIN = flags.DEFINE_string("domain", None, "Domain to evaluate, by name or as a .yaml file; all: those of the run.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for tables, pictures and evaluation.json.")
SPLIT = flags.DEFINE_enum("split", "test", ["test", "val"], "Images to use: those of the reported scores, or val.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "Replaces data.root of the run's config.")
PROTOCOL = flags.DEFINE_enum(
    "protocol", "whole", ["whole", "sliding", "multiscale"], "Whole images, windows, or the mean over scales and flips."
)
WINDOW = flags.DEFINE_integer("window", None, "Side of the windows of --protocol=sliding, in pixels.")
SCALES_FLAG = flags.DEFINE_string(
    "scales", None, f"Factors on the size for --protocol=multiscale; {SCALES} by default."
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images per batch; by default train.eval_batch_size of the run.", 1
)
AGAINST = flags.DEFINE_string("against", None, "A second run, compared with --model per class, with intervals.")


def main(argv: list[str]):
    """Evaluate --model."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; see python -m usss_jax.evaluate --help")
    if flags.FLAGS["config"].present:
        raise InputError("--config is not used, since the run has its own; leave it out")
    if missing := [flag.name for flag in (MODEL, DOMAIN, OUTPUT) if not flag.value]:
        example = "python -m usss_jax.evaluate --model=runs/demo --domain=all --output=scores"
        raise InputError(f"--{missing[0]} is missing: {example}")
    for flag, protocol in ((WINDOW, "sliding"), (SCALES_FLAG, "multiscale")):
        if flag.value is not None and PROTOCOL.value != protocol:
            raise InputError(
                f"--{flag.name}: is for --protocol={protocol}, not {PROTOCOL.value}; leave one of them out"
            )
    if PROTOCOL.value == "sliding" and WINDOW.value is None:
        raise InputError("--window is missing: --protocol=sliding needs the side of its windows, such as --window=256")
    check_paths(DATA_ROOT.value, "--data_root")
    model, output = cli.folder_of(MODEL), cli.folder_of(OUTPUT)
    against = cli.folder_of(AGAINST) if AGAINST.value else None
    multiscale = PROTOCOL.value == "multiscale"
    scales = read_scales(SCALES if SCALES_FLAG.value is None else SCALES_FLAG.value) if multiscale else (1.0,)
    cli.start_jax()
    from usss_jax.analysis.score_files import evaluate_run  # after the flags: a typo should not wait for JAX

    evaluate_run(
        model,
        str(DOMAIN.value),
        output,
        split=SPLIT.value,
        data_root=DATA_ROOT.value,
        batch_size=BATCH_SIZE.value,
        window=WINDOW.value,
        scales=scales,
        flip=multiscale,
        against=against,
    )


def read_scales(text: str) -> tuple[float, ...]:
    """Read factors separated by commas; raises InputError if one is no number."""
    try:
        return tuple(float(one) for one in names(text))
    except ValueError as e:
        raise InputError(f"--scales={text}: give numbers separated by commas, such as {SCALES}") from e


if __name__ == "__main__":
    cli.run(main)
