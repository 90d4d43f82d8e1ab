"""CamVid + IDD-Lite: England and India, 11 and 7 classes, real images, small enough for any machine.

    python -m usss_jax.main --config=configs/cvd_iddlite.py --config.data.root=DATA --workdir=runs/cvd_iddlite
    python -m usss_jax.main --config=configs/cvd_iddlite.py:cpu --config.data.root=DATA --workdir=runs/cvd_iddlite_cpu

DATA holds `camvid/` and `idd_lite/`. Not a row of the paper: its training (N = 100, DRN-D-22, which it calls ResNet-18,
SGD, poly, alpha = beta = 1) on two other domains, from scratch, with a suitable learning rate.

Arguments, separated by commas: `cpu` (a quarter of the width, half the size, a short schedule: for two cores),
`n=50` (labeled images per domain; CamVid has 367), `resnet50` (another encoder), `anchored` (our variation of the
objective, docs/claims.md), `tiny` (a few steps of every job). Time and scores of `cpu` are in docs/results.md; full
size: n/a, not measured.
"""

from usss_jax.config import apply_arg, default_config, light_encoder, parse_arg

CAMVID_TRAIN = 367


def get_config(arg=None):
    arg = parse_arg(arg, cpu=False, tiny=False, anchored=False, n=100, encoder=light_encoder())
    config = default_config()
    config.data.domains = ["camvid", "idd_lite"]
    config.data.labeled_per_domain = f"camvid=all,idd_lite={arg.n}" if arg.n > CAMVID_TRAIN else arg.n
    config.optim.lr = 0.02
    config.model.precision = "bfloat16"
    apply_arg(
        config,
        arg,
        cpu_image_size="camvid=176x240,idd_lite=114x160",
        light_image_size="camvid=240x320,idd_lite=227x320",
    )
    return config
