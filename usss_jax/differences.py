"""Entry point: where two networks differ, as a picture per domain, and the difference in IoU of every class.

python -m usss_jax.differences --jobs=RUN/basic,RUN/self_round0 --out=OUT

--jobs are folders of two finished jobs on the same data. Every row of OUT/DOMAIN.png is an image of the split: the one
in which the second network has most more pixels right than the first, those evenly spread through that order, and the
one in which it has most fewer. The columns are the image, the truth, both predictions, which of them is right, and the
confidence of the first network, such as the one that made pseudo-labels (black: 0, white: 1).

OUT/differences.json and differences.md have the difference in mIoU and in the IoU of every class, with intervals by a
paired bootstrap over the images of the split.
"""

from absl import flags

from usss_jax import cli
from usss_jax.config import names
from usss_jax.errors import InputError
from usss_jax.local_files import check_paths, local_path

JOBS = flags.DEFINE_string("jobs", None, "Folders of two finished jobs: RUN/basic,RUN/self_round0.")
OUT = flags.DEFINE_string("out", "differences", "Folder for the pictures.")
SPLIT = flags.DEFINE_enum("split", "test", ["test", "val"], "Images to use: those of the reported scores, or val.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "Replaces data.root of the runs' configs.")
IMAGES = flags.DEFINE_integer("images", 3, "Images per domain.", 1)


def main(argv: list[str]):
    """Draw the differences of --jobs."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; see python -m usss_jax.differences --help")
    if flags.FLAGS["config"].present:
        raise InputError("--config is not used, since every job has its own; leave it out")
    folders = [local_path(name, "--jobs") for name in names(JOBS.value or "")]
    check_paths(DATA_ROOT.value, "--data_root")
    out = cli.folder_of(OUT)
    cli.start_jax()
    from usss_jax.analysis.differences import draw_differences  # after the flags: a typo should not wait for JAX

    draw_differences(folders, out, split=SPLIT.value, data_root=DATA_ROOT.value, images=IMAGES.value)


if __name__ == "__main__":
    cli.run(main)
