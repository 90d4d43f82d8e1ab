"""SYNTHIA -> Cityscapes, 16 classes, and the mean over 13 of them: the second setting of MLSL (Table 2) and of CBST.

    python -m usss_jax.main --config=configs/synthia_cs.py:sisc --config.data.root=DATA --workdir=runs/synthia_cs

DATA holds `synthia/` (SYNTHIA-RAND-CITYSCAPES) and `cityscapes/` as published. The labels of Cityscapes' training
images are not used. As configs/gta_cs.py, but without the spatial prior, since viewpoints vary; 50 epochs on the
source, 2 % of it in the first round. The table has a second mean IoU, without wall, fence and pole. Scores: n/a, not
measured.
"""

from usss_jax.config import apply_uda_arg, parse_uda_arg, uda_config


def get_config(arg=None):
    arg = parse_uda_arg(arg)
    config = uda_config("synthia", "cityscapes16", source_size="760x1280", target_size="1024x2048")
    config.mlsl.without = "wall,fence,pole"
    config.mlsl.source_portion, config.rounds.portion = 0.02, 0.2
    config.train.steps, config.train.eval_batch_size = 29350, 1
    config.train.eval_every = config.train.checkpoint_every = 587
    apply_uda_arg(config, arg, label_scale=1850 / 2048)
    return config
