"""Two synthetic street domains on a laptop CPU: the whole method without a download.

    python -m usss_jax.main --config=configs/demo.py --workdir=runs/demo

`city_street` and `town_street` (usss_jax/data/synthetic.py) look different and have partly overlapping label spaces.
Unlike the paper: a narrow network from scratch, a higher learning rate, a short schedule. Arguments: `room` adds an
indoor domain, whose labels do not overlap with those of the streets; `tiny` trains a few steps of every job. Takes
a few minutes on two cores; scores are in docs/results.md.
"""

from usss_jax.config import default_config, parse_arg, shrink_to_tiny


def get_config(arg=None):
    arg = parse_arg(arg, room=False, tiny=False)
    config = default_config()
    config.data.domains = ["city_street", "town_street"] + ["indoor_room"] * arg.room
    config.data.labeled_per_domain = 16  # of 300 per domain
    config.data.image_size = "128x192"
    config.model.width = 0.25
    config.usss.embed_dim = 32
    config.data.normalize = "none"
    config.train.steps = 300
    config.usss.single_steps = 200
    config.train.batch_size = config.train.unlabeled_batch_size = 2
    config.train.unlabeled_batches = 1
    config.optim.lr = 0.1
    config.train.eval_every = config.train.checkpoint_every = 100
    config.train.eval_batch_size = 8
    config.train.log_every = 25
    if arg.tiny:
        shrink_to_tiny(config)
    return config
