"""Entry point: label maps, overlays and shares of classes of images or a video, by the network of a finished run.

python -m usss_jax.predict --model=runs/demo --domain=all --input=photos --output=predictions
python -m usss_jax.predict --model=runs/demo/full --domain=city_street --input='photos/*.jpg' --output=predictions
python -m usss_jax.predict --model=runs/demo/full --domain=city_street --input=drive.mp4 --output=predictions

Only the folder of the run or of one of its jobs is needed, neither data nor config. docs/predict.md describes outputs,
image formats and sizes.
"""

from absl import flags

from usss_jax import cli
from usss_jax.errors import InputError

MODEL = flags.DEFINE_string("model", None, "Folder of a run, or of one of its finished jobs, such as runs/demo/full.")
DOMAIN = flags.DEFINE_string("domain", None, "Domain whose classes to predict; all: those of every domain.")
INPUT = flags.DEFINE_string(
    "input", None, "An image, a folder of images, a pattern such as 'photos/*.jpg', or a video."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the predictions.")
PROBABILITIES = flags.DEFINE_bool("probabilities", False, "Also write the probabilities of all classes.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of equal size that are predicted together.", 1)
WINDOW = flags.DEFINE_integer("window", None, "Predict images with a longer side by windows of this side.", 1)


def main(argv: list[str]):
    """Predict the images or the video of --input."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; put a pattern in quotes: --input='photos/*.jpg'")
    if flags.FLAGS["config"].present:
        raise InputError("--config is not used, since the run has its own; leave it out")
    if missing := [flag.name for flag in (MODEL, DOMAIN, INPUT, OUTPUT) if not flag.value]:
        example = "python -m usss_jax.predict --model=runs/demo --domain=all --input=photos --output=predictions"
        raise InputError(f"--{missing[0]} is missing: {example}")
    model, output = cli.folder_of(MODEL), cli.folder_of(OUTPUT)
    cli.folder_of(INPUT)  # raises for a URL
    cli.start_jax()
    from usss_jax.inference.files import predict_files  # after the flags: a typo should not wait for JAX

    predict_files(
        model,
        str(DOMAIN.value),
        str(INPUT.value),
        output,
        probabilities=PROBABILITIES.value,
        batch_size=BATCH_SIZE.value,
        window=WINDOW.value,
    )


if __name__ == "__main__":
    cli.run(main)
