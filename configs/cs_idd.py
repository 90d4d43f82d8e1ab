"""Cityscapes + IDD (level 3, 26 classes): the CS + IDD table of the USSS paper.

    python -m usss_jax.main --config=configs/cs_idd.py --config.data.root=DATA --workdir=runs/cs_idd
    python -m usss_jax.main --config=configs/cs_idd.py:resnet50,n=1500 --config.data.root=DATA --workdir=runs/n1500

DATA holds `cityscapes/` and `idd/` (leftImg8bit, gtFine with `*_gtFine_labellevel3Ids.png`).

| argument        | row of the paper  | paper: Univ-basic CS / IDD / average | Univ-full             |
|-----------------|-------------------|--------------------------------------|-----------------------|
| (none)          | N=100, ResNet-18  | 37.94 / 25.21 / 31.58                | 36.48 / 27.45 / 31.97 |
| resnet50,n=1500 | N=1500, ResNet-50 | 63.55 / 53.21 / 58.38                | 64.12 / 55.14 / 59.63 |

Schedule and further arguments (`anchored`, `cpu`, `tiny`) are those of configs/cs_cvd.py; both domains at 512x1024 with
512x512 crops. Our time and scores: n/a, not measured.
"""

from usss_jax.config import apply_arg, default_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, cpu=False, tiny=False, anchored=False, n=100, encoder="drn_d_22")
    config = default_config()
    config.data.domains = ["cityscapes", "idd"]
    config.data.labeled_per_domain = arg.n
    apply_arg(config, arg, cpu_image_size="128x256", light_image_size="256x512")
    return config
