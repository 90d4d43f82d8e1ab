"""Cityscapes + SUN RGB-D (13 classes): streets and indoor scenes, Table 6 of the USSS paper.

    python -m usss_jax.main --config=configs/cs_sun.py --config.data.root=DATA --workdir=runs/cs_sun

DATA holds `cityscapes/` (leftImg8bit, gtFine) and `sunrgbd/` (images and 13-class masks of sunrgbd-meta-data).

| argument | row of the paper  | paper: Univ-basic CS / SUN / average | Univ-full             |
|----------|-------------------|--------------------------------------|-----------------------|
| (none)   | N=1500, ResNet-50 | 58.01 / 31.55 / 44.78                | 57.91 / 43.12 / 50.52 |

Schedule and further arguments (`anchored`, `cpu`, `tiny`) are those of configs/cs_cvd.py; Cityscapes at 512x1024 with
512x512 crops, SUN RGB-D whole at 480x640. The label sets share no class. `n=100` and `resnet18` select another N and
encoder. Our time and scores: n/a, not measured.
"""

from usss_jax.config import apply_arg, default_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, cpu=False, tiny=False, anchored=False, n=1500, encoder="resnet50")
    config = default_config()
    config.data.domains = ["cityscapes", "sun13"]
    config.data.labeled_per_domain = arg.n
    apply_arg(
        config,
        arg,
        cpu_image_size="cityscapes=128x256,sun13=120x160",
        light_image_size="cityscapes=256x512,sun13=240x320",
    )
    return config
