"""Cityscapes + CamVid: Tables 2 to 5 of the USSS paper.

    python -m usss_jax.main --config=configs/cs_cvd.py --config.data.root=DATA --workdir=runs/cs_cvd
    python -m usss_jax.main --config=configs/cs_cvd.py:resnet101,n=375 --config.data.root=DATA --workdir=runs/n375

DATA holds `cityscapes/` (leftImg8bit, gtFine) and `camvid/` (SegNet's layout).

| argument        | row of the paper            | paper: Univ-basic CS / CVD / average | Univ-full             |
|-----------------|-----------------------------|--------------------------------------|-----------------------|
| n=50            | Table 3, ResNet-18          | 32.82 / 48.56 / 40.69                | 34.01 / 53.23 / 43.62 |
| (none)          | Table 3, N=100, ResNet-18   | 36.04 / 51.90 / 43.97                | 41.03 / 54.62 / 47.83 |
| resnet101,n=375 | Table 4                     | 53.14 / 65.33 / 59.24                | 55.92 / 64.72 / 60.32 |

As in the paper: SGD 1e-3, momentum 0.9, decay 1e-4, poly 0.9, 200 epochs, batch 10, d = 128, alpha = beta = 1;
Cityscapes at 512x1024 (height x width) with 512x512 crops, CamVid whole at 360x480; flip and crop only. The paper's
encoders start from ImageNet weights: give a file as --config.model.pretrained=FILE. Without it the run starts from
random weights, and its scores cannot be compared with the paper's. CamVid has 367 training images; a larger n takes all
of them.

Further arguments: `anchored` (our variation of the objective, docs/claims.md), `convnext_tiny` (another encoder,
docs/encoders.md), `cpu` (smaller size, width and schedule for two cores), `tiny` (a few steps of every job). Our time
and scores: n/a, not measured.
"""

from usss_jax.config import apply_arg, default_config, parse_arg

CAMVID_TRAIN = 367


def get_config(arg=None):
    arg = parse_arg(arg, cpu=False, tiny=False, anchored=False, n=100, encoder="drn_d_22")
    config = default_config()
    config.data.domains = ["cityscapes", "camvid"]
    config.data.labeled_per_domain = f"cityscapes={arg.n},camvid=all" if arg.n > CAMVID_TRAIN else arg.n
    apply_arg(
        config,
        arg,
        cpu_image_size="cityscapes=128x256,camvid=176x240",
        light_image_size="cityscapes=256x512,camvid=240x320",
    )
    return config
