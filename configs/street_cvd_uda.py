"""Drawn city street -> CamVid: from synthetic to real images, without a download for the source.

    python -m usss_jax.main --config=configs/street_cvd_uda.py:cpu --config.data.root=DATA --workdir=runs/street_cvd_uda

DATA holds `camvid/`, whose training labels are not used. The arguments are those of configs/cs256_cvd_uda.py.
"""

from usss_jax.config import apply_uda_arg, default_encoder, parse_uda_arg, uda_config


def get_config(arg=None):
    arg = parse_uda_arg(arg)
    arg.encoder = arg.encoder or default_encoder(arg.tiny)
    config = uda_config("city_street", "camvid", source_size="240x320", target_size="240x320")
    config.data.crop_size, config.rounds.patch_size = "192x192", 160
    config.mlsl.source_portion = config.mlsl.source_max = 1.0
    apply_uda_arg(config, arg)
    return config
