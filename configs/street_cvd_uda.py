"""Drawn city street -> CamVid: from synthetic to real images, without a download for the source.

    python -m usss_jax.main --config=configs/street_cvd_uda.py:cpu --config.data.root=DATA --workdir=runs/street_cvd_uda

DATA holds `camvid/`, whose training labels are not used. The arguments are those of configs/cs256_cvd_uda.py.
"""

from usss_jax.config import apply_uda_arg, default_config, default_encoder, parse_uda_arg


def get_config(arg=None):
    arg = parse_uda_arg(arg)
    arg.encoder = arg.encoder or default_encoder(arg.tiny)
    config = default_config("mlsl")
    config.data.domains = ["city_street", "camvid"]
    config.data.labeled_per_domain = "city_street=all,camvid=0"
    config.data.image_size = "city_street=240x320,camvid=240x320"
    config.data.crop_size = "192x192"
    config.mlsl.target = "camvid"
    config.data.class_map = "city_street_to_camvid"
    config.mlsl.source_portion = config.mlsl.source_max = 1.0
    config.rounds.patch_size = 160
    apply_uda_arg(config, arg)
    return config
