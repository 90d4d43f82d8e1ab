"""CamVid + IDD-Lite: England and India, 11 and 7 classes, real images small enough for any machine.

    python -m usss_jax.main --config=configs/cvd_iddlite.py --config.data_root=DATA --workdir=runs/cvd_iddlite
    python -m usss_jax.main --config=configs/cvd_iddlite.py:cpu --config.data_root=DATA --workdir=runs/cvd_iddlite_cpu

DATA holds `camvid/` and `idd_lite/`. Not a row of the paper: its setting (N = 100, d_22 = its ResNet-18, SGD, poly,
alpha = beta = 1) on another pair of domains, from scratch, with a learning rate that suits that.

Arguments, separated by commas: `cpu` (a quarter of the width, half the size, a short schedule: for two cores),
`n=50` (labeled images per domain), `resnet50` (another encoder).
"""

from usss_jax.config import default_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, cpu=False, n=100, encoder="drn_d_22")
    config = default_config()
    config.domains = ["camvid", "idd_lite"]
    config.labeled_per_domain = arg.n
    config.encoder = arg.encoder
    config.lr = 0.02
    config.precision = "bfloat16"
    steps_per_epoch = -(-arg.n // config.batch_size)
    config.steps = config.single_steps = 200 * steps_per_epoch
    config.eval_every = config.checkpoint_every = 5 * steps_per_epoch
    if arg.cpu:
        config.precision = "float32"
        config.width = 0.25
        config.embed_dim = 64
        config.image_size = "camvid=176x240,idd_lite=114x160"
        config.batch_size = config.unlabeled_batch_size = 4
        config.unlabeled_batches = 1
        config.steps = 600
        config.single_steps = 300
        config.eval_every = config.checkpoint_every = 100
    return config
