"""Entry point: train the jobs of a config.

python -m usss_jax.main --config=configs/demo.py --workdir=runs/demo
"""

from absl import flags

from usss_jax import cli, multihost
from usss_jax.errors import InputError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all outputs of the run.")
STRICT = flags.DEFINE_bool("strict", False, "Refuse a workdir with a damaged file, instead of going on without it.")
flags.declare_key_flag("config")  # so that --help shows it


def main(argv: list[str]):
    """Train the jobs of the config."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; fields are set by --config.SECTION.FIELD=VALUE")
    for flag, given in (("config", flags.FLAGS["config"].present), ("workdir", WORKDIR.value)):
        if not given:
            raise InputError(
                f"--{flag} is missing: python -m usss_jax.main --config=configs/demo.py --workdir=runs/demo"
            )
    config = cli.CONFIG.value
    workdir = cli.folder_of(WORKDIR)
    multihost.start()
    cli.start_jax()
    from usss_jax.methods.train import train  # after the flags: a typo should not wait for JAX
    from usss_jax.parallel import hosts
    from usss_jax.runs.verifying import verify_workdir

    if STRICT.value:
        hosts.from_writer(verify_workdir, workdir)
    train(config, workdir)


if __name__ == "__main__":
    multihost.run(main)
