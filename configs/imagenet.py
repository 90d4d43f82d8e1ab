"""ImageNet pretraining of the encoder, with the schedule of the DRN paper (Yu, Koltun, Funkhouser, 2017, section 4.1).

    python -m usss_jax.main --config=configs/imagenet.py --config.data.root=DIR --workdir=runs/imagenet
    python -m usss_jax.main --config=configs/imagenet.py:resnet50 --config.data.root=tfds:DIR --workdir=runs/in50
    python -m usss_jax.main --config=configs/imagenet.py:cpu --config.data.root=DIR --workdir=runs/imagenet_cpu

DIR holds train/CLASS/IMAGE and val/CLASS/IMAGE (any number of classes), or with `tfds:` the array_record files of
tfds's imagenet2012. The run writes encoder.safetensors, from the best checkpoint, for segmentation:

    python -m usss_jax.main --config=configs/cs_cvd.py --config.model.pretrained=runs/imagenet/encoder.safetensors ...

SGD with momentum 0.9 and weight decay 1e-4, learning rate 0.1 divided by 10 every 30 of 120 epochs. Batch 256, random
resized crops of 224 pixels and flips are the usual ones. Arguments: `resnet50` (another encoder), `cpu` (a quarter of
the width, 64 pixels, 10 epochs: for small data sets on two cores; its weights fit model.width=0.25 only), `tiny` (one
step). Time and scores on ImageNet: n/a, not measured.
"""

from usss_jax.config import default_config, parse_arg, shrink_to_tiny


def get_config(arg=None):
    arg = parse_arg(arg, cpu=False, tiny=False, encoder="drn_d_22")
    config = default_config("imagenet")
    config.model.encoder = arg.encoder
    config.model.precision = "bfloat16"
    if arg.cpu:
        config.model.precision = "float32"
        config.model.width = 0.25
        config.imagenet.crop, config.imagenet.eval_resize = 64, 73
        config.train.batch_size = config.train.eval_batch_size = 32
        config.optim.lr = 0.02
        config.imagenet.epochs, config.imagenet.decay_epochs = 10.0, 4.0
        config.data.loader_threads = 2
        config.train.checkpoint_every, config.train.log_every = 100, 10
    if arg.tiny:
        shrink_to_tiny(config)
    return config
