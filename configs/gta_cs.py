"""GTA5 -> Cityscapes, 19 classes: the first setting of MLSL (Table 1) and of CBST.

    python -m usss_jax.main --config=configs/gta_cs.py:sisc_pwl --config.data.root=DATA --workdir=runs/gta_cs
    python -m usss_jax.main --config=configs/gta_cs.py:cbst_sp --config.data.root=DATA --workdir=runs/gta_cs

DATA holds `gta5/` and `cityscapes/` as published. The labels of Cityscapes' training images are not used. The network
is RNA-A1 ("ResNet-38"), by the recipe of the released code: 30 epochs on the source, then 6 rounds of 2 epochs with 3 %
of the source and all target images. `--config.model.pretrained=FILE` takes its published ImageNet weights (MXNet
.params). The paper's 505 target images are `--config.mlsl.target_images=505`, or a list of one's own in
`data.unlabeled_list`. The other arguments are those of configs/cs256_cvd_uda.py. Scores: n/a, not measured.
"""

from usss_jax.config import apply_uda_arg, parse_uda_arg, uda_config


def get_config(arg=None):
    arg = parse_uda_arg(arg)
    config = uda_config("gta5", "cityscapes", source_size="1052x1914", target_size="1024x2048")
    config.mlsl.prior = True
    config.train.steps, config.train.eval_batch_size = 46800, 1
    config.train.eval_every = config.train.checkpoint_every = 1560
    apply_uda_arg(config, arg, label_scale=1850 / 2048)
    return config
