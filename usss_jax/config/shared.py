"""Declarations of the fields that methods share: data, model, optim and train."""

from usss_jax.config.field import (
    AT_LEAST_1,
    BOOL,
    DATA,
    ENCODER,
    FILE,
    HOST,
    NAMES,
    NOT_NEGATIVE,
    NOTHING,
    PATH,
    POSITIVE,
    SEED,
    SHARE,
    SIZE,
    Field,
    Range,
    one_of,
    universal,
)

PAPER_BATCH = 10  # labeled images per domain and step in the paper, for which `optim.lr` is chosen

_COUNT = Range('a number, "all", or 0: without labels')
_SCALE = Range("LOW-HIGH, such as 0.5-2.0, or empty")
_SPLITS = Range("such as train+train_extra, or empty")
_BATCHES = Range('a number, or "pool": the whole pool every epoch')

SHARED: dict[str, Field] = {
    "method": Field("usss", Range("a method"), "the method; it determines the other fields"),
    # ---- data ----
    "data.domains": Field(
        ["cityscapes", "camvid"],
        NAMES,
        "names of built-in domains, or YAML files",
        mixed=True,
        path=True,
        changes=DATA,
        sweep="set",
    ),
    "data.class_map": Field(
        "",
        PATH,
        "gives one of the domains the classes of another one: the name or YAML file of a class map (docs/data.md)",
        path=True,
        changes=DATA,
        sweep="shared",
    ),
    "data.root": Field(
        "",
        PATH,
        "folder with one sub-folder per domain (imagenet: with train/CLASS/IMAGE and val/CLASS/IMAGE), or by name the "
        "folder of each domain; tfds:DIR: records",
        per_domain=True,
        path=True,
        changes=HOST,
        sweep="set",
    ),
    "data.labeled_per_domain": Field(
        100,
        _COUNT,
        "number of labeled images; a domain without labels has only entropy terms, and needs no masks",
        per_domain=True,
        mixed=True,
        changes=DATA,
        sweep="set",
    ),
    "data.split_seed": Field(0, SEED, "seed of the choice of labeled images", changes=DATA),
    "data.labeled_list": Field(
        "",
        PATH,
        "text file with the names of the labeled images, instead of `data.labeled_per_domain`",
        per_domain=True,
        path=True,
        changes=DATA,
        sweep="shared",
    ),
    "data.unlabeled_splits": universal(
        "", _SPLITS, "splits of the unlabeled images; empty: those of the domain", per_domain=True, changes=DATA
    ),
    "data.unlabeled_list": universal(
        "",
        PATH,
        "text file with the names of the unlabeled images to use; empty: all",
        per_domain=True,
        path=True,
        changes=DATA,
    ),
    "data.unlabeled_includes_labeled": universal(
        True, BOOL, "whether to use labeled images as unlabeled images, too, as in the paper", changes=DATA
    ),
    "data.on_bad_example": Field(
        "error",
        one_of("error", "skip"),
        "skip: read all files first, and leave out and report those that are damaged or have no mask",
    ),
    "data.min_classes": Field(
        2,
        AT_LEAST_1,
        "minimal number of classes in the labeled images and in each evaluated split",
        changes=NOTHING,
    ),
    "data.image_size": Field(
        "",
        SIZE,
        "size at which images are loaded and evaluated; empty: the domain's",
        per_domain=True,
        changes=DATA,
    ),
    "data.crop_size": Field(
        "",
        SIZE,
        "size of training crops; empty: the domain's, or the whole image if `data.image_size` is set",
        per_domain=True,
        changes=DATA,
    ),
    "data.cache_gb": Field(
        4.0,
        NOT_NEGATIVE,
        "memory for decoded images of all domains, in GB; 0: decode them in every epoch",
        changes=HOST,
    ),
    "data.loader_threads": Field(4, AT_LEAST_1, "number of threads that load images", changes=HOST),
    "data.sampling": Field(
        "uniform",
        one_of("uniform", "rare"),
        "sampling of labeled images; rare: images of rare classes more often",
        per_domain=True,
    ),
    "data.rare_temperature": Field(
        0.01, POSITIVE, "temperature of `data.sampling=rare`; lower: rare classes even more often"
    ),
    "data.flip": Field(True, BOOL, "flip half of the images horizontally"),
    "data.scale": Field("", _SCALE, "range of a random scale before the crop", per_domain=True),
    "data.color_jitter": Field(0.0, SHARE, "strength of random brightness, contrast, saturation, hue"),
    "data.grey": Field(0.0, SHARE, "probability of a greyscale image"),
    "data.blur": Field(0.0, SHARE, "probability of a blurred image"),
    "data.mix": Field("none", one_of("none", "cutmix", "classmix"), "mixing of labeled images"),
    "data.normalize": Field(
        "encoder",
        one_of("encoder", "imagenet", "none"),
        "encoder: as its published weights expect; imagenet: by its mean and standard deviation; none: divide by 255",
    ),
    # ---- model ----
    "model.encoder": Field("drn_d_22", ENCODER, "name of the encoder", sweep="set"),
    "model.width": Field(1.0, POSITIVE, "factor on the channels of the encoder"),
    "model.pretrained": Field(
        "",
        Range('"imagenet", a path, or empty'),
        "pretrained weights of the encoder: imagenet (of an installed package), a file .safetensors, .npz, .pth "
        "or .params, or the folder of a finished job",
        path=True,
        changes=FILE,
    ),
    "model.stride": Field(0, NOT_NEGATIVE, "output stride of the encoder; 0: its default (docs/encoders.md)"),
    "model.lateral": Field(
        0, NOT_NEGATIVE, "stride of a finer level of the encoder whose features are combined with the last; 0: none"
    ),
    "model.frozen_levels": Field(0, NOT_NEGATIVE, "number of the encoder's first levels that are not trained"),
    "model.batch_norm": Field(
        "domain",
        one_of("domain", "joint", "frozen"),
        "statistics that batch norms use in training: of every domain's batch, of all domains' batches together, or, "
        "in the encoder, the running ones, which then stay as they are",
    ),
    "model.head": Field(
        "linear",
        one_of("linear", "dilated"),
        "decoders; linear: a 1x1 convolution; dilated: two 3x3 convolutions of dilation 12 (docs/encoders.md)",
    ),
    "model.upsample": Field(
        "bilinear",
        one_of("bilinear", "drn"),
        "upsampling of scores; drn: as in the reference implementation, fading at the border",
    ),
    "model.precision": Field("float32", one_of("float32", "tf32", "bfloat16"), "precision of convolutions"),
    "model.remat": Field(
        "",
        Range("levels such as 0-2, all, or empty"),
        "levels of the encoder that the backward pass recomputes, to save memory (not on CPU)",
        changes=NOTHING,
    ),
    # ---- optim ----
    "optim.lr": Field(1e-3, POSITIVE, "learning rate", remedy=True),
    "optim.lr_rule": Field(
        "fixed",
        one_of("fixed", "linear"),
        f"linear: times `train.batch_size` / {PAPER_BATCH}, the paper's batch size",
    ),
    "optim.name": Field("sgd", one_of("sgd", "adamw"), "optimiser"),
    "optim.momentum": Field(0.9, NOT_NEGATIVE, "sgd: momentum; adamw: beta1"),
    "optim.weight_decay": Field(
        1e-4, NOT_NEGATIVE, "sgd: added to the gradient; adamw: decoupled, without norms and biases"
    ),
    "optim.schedule": Field(
        "poly", one_of("poly", "cosine", "constant"), "poly, cosine: decay of the learning rate to 0; constant: none"
    ),
    "optim.poly_power": Field(0.9, NOT_NEGATIVE, "power of poly: lr * (1 - step / steps) ^ power"),
    "optim.warmup_steps": Field(0, NOT_NEGATIVE, "steps over which the learning rate rises linearly", remedy=True),
    "optim.encoder_lr_scale": Field(1.0, POSITIVE, "factor on the learning rate of the encoder"),
    "optim.heads_lr_scale": Field(
        1.0, POSITIVE, "factor on the learning rate of decoders, image-level heads and lateral"
    ),
    "optim.encoder_decay_scale": Field(1.0, NOT_NEGATIVE, "factor on the weight decay of the encoder"),
    "optim.heads_decay_scale": Field(
        1.0, NOT_NEGATIVE, "factor on the weight decay of decoders, image-level heads and lateral"
    ),
    "optim.bias_lr_scale": Field(
        1.0, POSITIVE, "another factor on the learning rate of all biases, and of the shifts of norms"
    ),
    "optim.bias_decay_scale": Field(1.0, NOT_NEGATIVE, "the same for their weight decay; adamw decays none of them"),
    # ---- train ----
    "train.steps": universal(2000, AT_LEAST_1, "steps of the universal networks; the paper's: 200 epochs"),
    "train.batch_size": Field(10, AT_LEAST_1, "labeled images per domain and step"),
    "train.unlabeled_batch_size": universal(
        10, AT_LEAST_1, "unlabeled images per domain and micro-batch", per_domain=True, mixed=True
    ),
    "train.unlabeled_batches": universal(
        "pool", _BATCHES, "unlabeled micro-batches of a step", per_domain=True, mixed=True
    ),
    "train.seed": Field(0, SEED, "seed of the weights and of the order of images", sweep="set"),
    "train.eval_every": Field(50, AT_LEAST_1, "steps between evaluations"),
    "train.eval_batch_size": Field(10, AT_LEAST_1, "images per batch of the evaluation"),
    "train.checkpoint_every": Field(100, AT_LEAST_1, "steps between checkpoints", changes=NOTHING),
    "train.log_every": Field(10, AT_LEAST_1, "steps between lines of the log", changes=NOTHING),
    "train.quick_compile": Field(
        False, BOOL, "compile the step without optimisation on CPU: starts sooner, runs slower; for smoke tests"
    ),
    "train.shard_parameters": Field(
        False, BOOL, "split large parameters and their momentum over the devices, to save memory", changes=NOTHING
    ),
}
