"""Entry point: Figure 4 of the paper, the encoder's output at pixels of matching classes, for several networks.

python -m usss_jax.class_plot --jobs=RUN/basic,RUN/full --out=OUT
python -m usss_jax.class_plot --jobs=RUN/basic,RUN/full --classes=building,sidewalk,sky,cityscapes:road=sun13:floor

--jobs are folders of finished jobs, in the order of the panels, of one run or of several runs on the same data. The
encoders of their best checkpoints are compared on whole images in evaluation mode. The files in --out are

  class_plot.json   mean cosine between centroids of matching classes of two domains, minus that of the other pairs
  class_plot.png    t-SNE of the encoder's output at randomly sampled pixels, with that number in the titles

--classes selects the classes: a bare name stands for the classes of that name, or of a synonym (sidewalk and pavement,
vegetation and tree, traffic sign and sign, person and pedestrian), in every domain; DOMAIN:NAME for one class; = joins
classes of equal meaning but different names. Without it: all classes that match by name or synonym and have labeled
pixels in both domains.
"""

from absl import flags

from usss_jax import cli
from usss_jax.config import names
from usss_jax.errors import InputError
from usss_jax.local_files import check_paths, local_path

JOBS = flags.DEFINE_string("jobs", None, "Folders of finished jobs, separated by commas: RUN/basic,RUN/full.")
CLASSES = flags.DEFINE_string("classes", "", "Classes to compare, such as building,sky,cityscapes:road=sun13:floor.")
OUT = flags.DEFINE_string("out", "class_plot", "Folder for class_plot.json and class_plot.png.")
SPLIT = flags.DEFINE_enum("split", "test", ["test", "val"], "Images to use: those of the reported scores, or val.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "Replaces data.root of the runs' configs.")
PICTURE = flags.DEFINE_bool("picture", True, "Draw the t-SNE, which needs pip install 'usss_jax[figures]'.")
PIXELS = flags.DEFINE_integer("pixels", 100, "Pixels of each class in the t-SNE.", 1)
PERPLEXITY = flags.DEFINE_float("perplexity", 30.0, "Perplexity of the t-SNE.", 1.0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the t-SNE and of its pixels.", 0, 2**32 - 1)


def main(argv: list[str]):
    """Compare the jobs of --jobs."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; see python -m usss_jax.class_plot --help")
    if flags.FLAGS["config"].present:
        raise InputError("--config is not used, since every job has its own; leave it out")
    folders = [local_path(name, "--jobs") for name in names(JOBS.value or "")]
    if not folders:
        raise InputError("--jobs is missing: python -m usss_jax.class_plot --jobs=RUN/basic,RUN/full --out=OUT")
    check_paths(DATA_ROOT.value, "--data_root")
    out = cli.folder_of(OUT)
    cli.start_jax()
    from usss_jax.analysis import alignment  # after the flags: a typo should not wait for JAX

    alignment.compare_jobs(
        folders,
        out,
        classes=CLASSES.value,
        split=SPLIT.value,
        data_root=DATA_ROOT.value,
        picture=PICTURE.value,
        pixels=PIXELS.value,
        perplexity=PERPLEXITY.value,
        seed=SEED.value,
    )


if __name__ == "__main__":
    cli.run(main)
