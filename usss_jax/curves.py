"""Entry point: curves of the scalars of one or several jobs, such as the share of pixels that a teacher keeps.

python -m usss_jax.curves --jobs=RUN/teacher --scalars=kept/camvid,kept/cityscapes256,val_miou_teacher --out=kept.png

A panel per name in --scalars, with that scalar and those below it: kept/camvid has the share of all pixels of CamVid
and of those predicted as each class. Names are those in metrics.jsonl. Needs pip install 'usss_jax[figures]'.
"""

from absl import flags

from usss_jax import cli
from usss_jax.config import names
from usss_jax.errors import InputError
from usss_jax.local_files import local_path

JOBS = flags.DEFINE_string("jobs", None, "Folders of jobs, finished or not, separated by commas.")
SCALARS = flags.DEFINE_string("scalars", "loss,val_miou", "Names of scalars, or of groups of them.")
WINDOW = flags.DEFINE_integer("window", 10, "At most so many logged steps are averaged.", 1)
OUT = flags.DEFINE_string("out", "curves.png", "The picture.")


def main(argv: list[str]):
    """Draw the scalars of --jobs."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; see python -m usss_jax.curves --help")
    folders = [local_path(name, "--jobs") for name in names(JOBS.value or "")]
    if not folders:
        raise InputError("--jobs is missing: python -m usss_jax.curves --jobs=RUN/teacher --scalars=kept/camvid")
    try:
        from usss_jax.analysis import curves
    except ImportError as e:
        raise InputError(f"curves need {(e.name or str(e)).split('.')[0]}: pip install 'usss_jax[figures]'") from e
    from usss_jax.data.pictures import save_png

    titles = [folder.name if [f.name for f in folders].count(folder.name) == 1 else str(folder) for folder in folders]
    jobs = {title: curves.read_curves(folder) for title, folder in zip(titles, folders, strict=True)}
    save_png(str(OUT.value), curves.draw_curves(curves.panels(jobs, names(SCALARS.value or "")), WINDOW.value or 1))
    print(f"wrote {OUT.value}")


if __name__ == "__main__":
    cli.run(main)
