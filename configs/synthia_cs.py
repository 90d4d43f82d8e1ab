"""SYNTHIA -> Cityscapes, 16 classes, and the mean over 13 of them: the second setting of MLSL (Table 2) and of CBST.

    python -m usss_jax.main --config=configs/synthia_cs.py:sisc --config.data.root=DATA --workdir=runs/synthia_cs

DATA holds `synthia/` (SYNTHIA-RAND-CITYSCAPES) and `cityscapes/` as published. The labels of Cityscapes' training
images are not used. As configs/gta_cs.py, but without the spatial prior, since viewpoints vary; 50 epochs on the
source, 2 % of it in the first round. The table has a second mean IoU, without wall, fence and pole. Scores: n/a, not
measured.
"""

from usss_jax.config import apply_uda_arg, default_config, parse_uda_arg


def get_config(arg=None):
    arg = parse_uda_arg(arg)
    config = default_config("mlsl")
    config.data.domains = ["synthia", "cityscapes16"]
    config.data.labeled_per_domain = "synthia=all,cityscapes16=0"
    config.data.image_size = "synthia=760x1280,cityscapes16=1024x2048"
    config.mlsl.target = "cityscapes16"
    config.data.class_map = "synthia_to_cityscapes16"
    config.mlsl.without = "wall,fence,pole"
    config.mlsl.source_portion = 0.02
    config.rounds.portion = 0.2
    config.train.steps = 29350
    config.train.eval_every = config.train.checkpoint_every = 587
    config.train.eval_batch_size = 1
    apply_uda_arg(config, arg)
    if arg.cbst or arg.cbst_sp or arg.st:
        config.rounds.label_scale = 1850 / 2048
    return config
