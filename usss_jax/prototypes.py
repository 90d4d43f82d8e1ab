"""Entry point: compute label embeddings from the finished single-domain networks of a workdir, and their cosines.

python -m usss_jax.prototypes --workdir=runs/cs_cvd
python -m usss_jax.prototypes --workdir=runs/cs_cvd --embeddings_per_class=3 --out=runs/cs_cvd_k3

The config is the workdir's config.json, or --config; --data_root replaces its data.root if the data has moved. With
--out the workdir is only read, and OUT/prototypes gets label_embeddings.npz, for --config.usss.label_embeddings=FILE,
and the cosines. Without --out they go to WORKDIR/prototypes, where training looks for them; existing label embeddings
are kept, and their cosines are written again.
"""

import contextlib
import pathlib

from absl import flags
from ml_collections import ConfigDict

from usss_jax import cli, multihost
from usss_jax.config import checked, filled
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run with finished single-domain networks.")
PER_CLASS = flags.DEFINE_integer("embeddings_per_class", None, "K, instead of the config's; needs --out.", 1)
OUT = flags.DEFINE_string("out", None, "Folder for the label embeddings and their cosines.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "Replaces data.root of the config.")
flags.declare_key_flag("config")  # so that --help shows it


def main(argv: list[str]):
    """Compute the label embeddings and their cosines."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; fields are set by --config.SECTION.FIELD=VALUE")
    if not WORKDIR.value:
        raise InputError("--workdir is missing: python -m usss_jax.prototypes --workdir=runs/demo")
    workdir = cli.folder_of(WORKDIR)
    multihost.start()
    cli.start_jax()
    if PER_CLASS.value and not OUT.value:
        raise InputError(f"--embeddings_per_class needs --out: {workdir}/prototypes is for its own config")
    config = cli.CONFIG.value if flags.FLAGS["config"].present else config_of(workdir)
    config = checked(config, "usss")
    if PER_CLASS.value:
        config.usss.embeddings_per_class = PER_CLASS.value
    if DATA_ROOT.value:
        config.data.root = DATA_ROOT.value
    make(checked(config), workdir, cli.folder_of(OUT) if OUT.value else None)


def make(config: ConfigDict, workdir: pathlib.Path, out: pathlib.Path | None):
    """Compute the label embeddings and their cosines in OUT/prototypes, or in WORKDIR/prototypes without `out`.

    Raises:
      InputError: if config, data or workdir cannot be used, if the networks were trained on other data, or if another
        process trains the workdir and `out` is None.
    """
    import jax  # after the flags: a typo should not wait for JAX

    from usss_jax.data.pools import open_all, with_labels
    from usss_jax.engine import loop
    from usss_jax.methods import opening, supervised
    from usss_jax.methods.training import Run
    from usss_jax.methods.usss import embeddings_pass, label_embeddings, label_sources
    from usss_jax.methods.usss.singles import singles_folder
    from usss_jax.parallel import hosts, sharding
    from usss_jax.runs import workdir as workdir_lib

    if out is None and config.usss.label_embeddings != label_sources.PROTOTYPES:
        raise InputError(f"{workdir} trains with usss.label_embeddings={config.usss.label_embeddings}; give --out")
    if out is not None and embeddings_pass.has_embeddings(out):
        raise InputError(f"--out={out}: has label embeddings already; give another folder")
    try:
        everything = hosts.together(open_all, config)
        opening.check_same_run(config, everything)
    except InputError as e:
        raise InputError(str(e).replace("--config.data.root", "--data_root")) from e
    pools = with_labels(everything)
    with config.unlocked():
        config.usss.single_from = config.usss.single_from or str(workdir)
    data = {name: pool.content for name, pool in everything.items()}
    singles = singles_folder(config, workdir, {name: data[name] for name in pools})
    mesh = sharding.create_mesh(jax.devices())
    run = Run(config, out or workdir, mesh, pools)
    for job in supervised.single_fits(run, singles):
        loop.finished(job)  # raises if it was trained on other data
    if out is None:
        workdir_lib.claim_workdir(config, workdir, data)
    made = embeddings_pass.embeddings_pass(run, singles)
    with contextlib.nullcontext() if out else workdir_lib.alone_in(workdir):
        hosts.from_writer(lambda: made.path.parent.mkdir(parents=True, exist_ok=True))
        hosts.check_shared(made.path.parent)
        if not embeddings_pass.has_embeddings(run.workdir):
            made.make()
        embeddings_pass.read_embeddings(run)
        label_embeddings.write_cosines(made.path)
    print(f"{made.path}, with cosines.json and cosines.png")


def config_of(workdir: pathlib.Path) -> ConfigDict:
    """Read the config of a run, with defaults for newer fields."""
    try:
        return checked(filled(read_object(workdir / "config.json")))
    except InputError as e:
        raise InputError(f"--workdir={workdir}: {e}; give its --config") from e
    except (OSError, ValueError) as e:
        raise InputError(f"--workdir={workdir}: not a workdir of a run ({reason(e)}); give another, or --config") from e


if __name__ == "__main__":
    multihost.run(main)
