"""Two generated street domains on a laptop CPU: the whole method without any download.

    python -m usss_jax.main --config=configs/demo.py --workdir=runs/demo

`city_street` and `town_street` (usss_jax/data/synthetic.py) have different looks and partly overlapping label spaces.
Departs from the paper: thin network from scratch, higher learning rate, a short schedule. Arguments: `room` adds the
indoor domain, whose labels do not overlap with the streets'.
"""

from usss_jax.config import default_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, room=False)
    config = default_config()
    config.domains = ["city_street", "town_street"] + ["indoor_room"] * arg.room
    config.labeled_per_domain = 16  # of 300 per domain
    config.image_size = "128x192"
    config.width = 0.25
    config.embed_dim = 32
    config.normalize = "none"
    config.steps = 300
    config.single_steps = 200
    config.batch_size = config.unlabeled_batch_size = 2
    config.unlabeled_batches = 1
    config.lr = 0.1
    config.eval_every = config.checkpoint_every = 100
    config.eval_batch_size = 8
    config.log_every = 25
    return config
