"""Entry point: which class of one domain the network of a finished run sees where another domain's class is.

python -m usss_jax.relations --model=runs/cs_cvd --input=DATA/camvid/test,DATA/cityscapes/leftImg8bit/val --output=OUT

Only the folder of the run or of one of its jobs is needed, and images, best of all its domains. All decoders predict
every image. The files in --output are, for every pair of domains A and B,

  A_B.csv, A_B.png   the share of the pixels that A's decoder gives a class, by the class that B's decoder gives them
  relations.json     the same as numbers of pixels, and how well classes with the same name or a synonym agree
"""

from absl import flags

from usss_jax import cli
from usss_jax.config import names
from usss_jax.errors import InputError

MODEL = flags.DEFINE_string("model", None, "Folder of a run, or of one of its finished jobs, such as runs/demo/full.")
INPUT = flags.DEFINE_string("input", None, "Images, folders or patterns, separated by commas.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for tables, pictures and relations.json.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of equal size that are predicted together.", 1)


def main(argv: list[str]):
    """Relate the label spaces of --model on the images of --input."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; put a pattern in quotes: --input='photos/*.jpg'")
    if flags.FLAGS["config"].present:
        raise InputError("--config is not used, since the run has its own; leave it out")
    if missing := [flag.name for flag in (MODEL, INPUT, OUTPUT) if not flag.value]:
        example = "python -m usss_jax.relations --model=runs/demo --input=photos --output=relations"
        raise InputError(f"--{missing[0]} is missing: {example}")
    model, output = cli.folder_of(MODEL), cli.folder_of(OUTPUT)
    cli.start_jax()
    from usss_jax.analysis.relations import relate  # after the flags: a typo should not wait for JAX

    relate(model, names(INPUT.value or ""), output, batch_size=BATCH_SIZE.value)


if __name__ == "__main__":
    cli.run(main)
