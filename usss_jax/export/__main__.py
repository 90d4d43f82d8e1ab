"""Entry point: the network of a finished run as files for other programs.

python -m usss_jax.export --model=runs/demo --format=stablehlo --output=exported
python -m usss_jax.export --model=runs/demo --format=onnx --output=exported --check='photos/*.jpg'
python -m usss_jax.export --model=runs/demo --format=hub --output=exported

Only the folder of the run or of one of its jobs is needed. docs/export.md describes the formats.
"""

from absl import flags

from usss_jax import cli
from usss_jax.errors import InputError

FORMATS = ("stablehlo", "onnx", "hub")
MODEL = flags.DEFINE_string("model", None, "Folder of a run, or of one of its finished jobs, such as runs/demo/full.")
FORMAT = flags.DEFINE_enum("format", None, FORMATS, "stablehlo: for JAX alone; onnx: for onnxruntime; hub: for a hub.")
DOMAIN = flags.DEFINE_string("domain", "all", "Domain whose decoder to export; all: every decoder.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for the files, empty or new.")
CHECK = flags.DEFINE_string("check", None, "Images, a folder or a pattern: compare export and network on them.")


def main(argv: list[str]):
    """Export the network of --model."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; put a pattern in quotes: --check='photos/*.jpg'")
    if flags.FLAGS["config"].present:
        raise InputError("--config is not used, since the run has its own; leave it out")
    if missing := [flag.name for flag in (MODEL, FORMAT, OUTPUT) if not flag.value]:
        example = "python -m usss_jax.export --model=runs/demo --format=onnx --output=exported"
        raise InputError(f"--{missing[0]} is missing: {example}")
    model, output = cli.folder_of(MODEL), cli.folder_of(OUTPUT)
    cli.start_jax()
    from usss_jax.export.write import export_network  # after the flags: a typo should not wait for JAX

    export_network(model, str(FORMAT.value), output, domain=str(DOMAIN.value), check=CHECK.value)


if __name__ == "__main__":
    cli.run(main)
