"""All fields of a config, each declared once: default, range, meaning, and what depends on it.

docs/config.md shows them. `python -m usss_jax.config` writes that page.
"""

from functools import partial

from usss_jax.config.field import (
    AT_LEAST_1,
    BOOL,
    ENCODER,
    NAMES,
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    POSITIVE_SHARE,
    SEED,
    SHARE,
    SIZE,
    Changes,
    Field,
    Range,
    one_of,
)

VARIANTS = ("single", "frozen", "finetune", "hung", "basic", "cross", "full", "direct")
METHODS = ("usss", "imagenet")
PAPER_BATCH = 10  # labeled images per domain and step, to which `optim.lr` belongs

universal = partial(Field, singles=False)  # of the training of one network for all domains
imagenet = partial(Field, of="imagenet")
NUMBERS, DATA, FILE, NOTHING, HOST = Changes

_COUNT = Range('a number, "all", or 0: without labels')
_SCALE = Range("LOW-HIGH, such as 0.5-2.0, or empty")
_SPLITS = Range("such as train+train_extra, or empty")
_BATCHES = Range('a number, or "pool": the whole pool every epoch')
_EMBEDDINGS = Range('"prototypes", "random", "words:FILE" or an .npz file')
_WITH_EMBEDDINGS = ("cross", "full")
_UNSUPERVISED = ("cross", "full", "direct")

FIELDS: dict[str, Field] = {
    "method": Field("usss", one_of(*METHODS), "what is trained", also={"imagenet": "imagenet"}),
    "variants": Field(
        ["single", "basic", "full"],
        NAMES,
        f"what is trained, in this order: {', '.join(VARIANTS)}",
        mixed=True,
        changes=NOTHING,
        sweep="set",
    ),
    # ---- data ----
    "data.domains": Field(
        ["cityscapes", "camvid"],
        NAMES,
        "domains of this project by name, one's own by YAML file",
        mixed=True,
        path=True,
        changes=DATA,
        sweep="set",
    ),
    "data.root": Field(
        "",
        PATH,
        "folder with one sub-folder per domain, or with train/CLASS and val/CLASS of imagenet; "
        'given by name the domain\'s own; "tfds:DIR" for records',
        per_domain=True,
        path=True,
        changes=HOST,
        sweep="set",
        also={"imagenet": ""},
    ),
    "data.labeled_per_domain": Field(
        100,
        _COUNT,
        "labeled images; a domain without labels is trained by the entropy terms alone and needs no masks",
        per_domain=True,
        mixed=True,
        changes=DATA,
        sweep="set",
    ),
    "data.split_seed": Field(0, SEED, "chooses the labeled images", changes=DATA),
    "data.labeled_list": Field(
        "",
        PATH,
        "text file that names the labeled images, in place of labeled_per_domain",
        per_domain=True,
        path=True,
        changes=DATA,
        sweep="shared",
    ),
    "data.unlabeled_splits": universal(
        "", _SPLITS, "splits of the unlabeled images; empty: the domain's own", per_domain=True, changes=DATA
    ),
    "data.unlabeled_list": universal(
        "",
        PATH,
        "text file that names the unlabeled images among them; empty: all",
        per_domain=True,
        path=True,
        changes=DATA,
    ),
    "data.unlabeled_includes_labeled": universal(
        True, BOOL, "the labeled images are used without their masks too, as in the paper", changes=DATA
    ),
    "data.on_bad_example": Field(
        "error",
        one_of("error", "skip"),
        "skip: read all files once first, leave out and report what is damaged or has no mask",
        also={"imagenet": "error"},
    ),
    "data.min_classes": Field(
        2,
        AT_LEAST_1,
        "classes that the labeled images, and each evaluated split, of a domain must show",
        changes=NOTHING,
    ),
    "data.image_size": Field(
        "",
        SIZE,
        "size at which images are loaded and evaluated; empty: the domain's own",
        per_domain=True,
        changes=DATA,
    ),
    "data.crop_size": Field(
        "",
        SIZE,
        "size of training examples; empty: the domain's own, the whole image if image_size is given",
        per_domain=True,
        changes=DATA,
    ),
    "data.cache_gb": Field(
        4.0, NOT_NEGATIVE, "memory for decoded images, all domains together; 0: decode them every time", changes=HOST
    ),
    "data.loader_threads": Field(4, AT_LEAST_1, "threads that load images", changes=HOST, also={"imagenet": 16}),
    "data.sampling": Field(
        "uniform",
        one_of("uniform", "rare"),
        "of labeled images; rare: images of rare classes more often",
        per_domain=True,
    ),
    "data.rare_temperature": Field(0.01, POSITIVE, "of sampling=rare; lower: rarer"),
    "data.flip": Field(True, BOOL, "left and right, in half of the cases", also={"imagenet": True}),
    "data.scale": Field("", _SCALE, "random scale before the crop", per_domain=True),
    "data.color_jitter": Field(0.0, SHARE, "strength", also={"imagenet": 0.0}),
    "data.grey": Field(0.0, SHARE, "probability that an image loses its colour"),
    "data.blur": Field(0.0, SHARE, "probability of a blur"),
    "data.mix": Field("none", one_of("none", "cutmix", "classmix"), "of labeled images"),
    "data.normalize": Field(
        "imagenet", one_of("imagenet", "none"), "none: division by 255 alone", also={"imagenet": "imagenet"}
    ),
    # ---- model ----
    "model.encoder": Field("drn_d_22", ENCODER, "network", sweep="set", also={"imagenet": "drn_d_22"}),
    "model.width": Field(1.0, POSITIVE, "factor on the encoder's channels", also={"imagenet": 1.0}),
    "model.pretrained": Field(
        "",
        PATH,
        "weights of the encoder: .safetensors, .npz, .pth, or the folder of a finished stage of ours",
        path=True,
        changes=FILE,
    ),
    "model.upsample": Field(
        "bilinear", one_of("bilinear", "drn"), "of the scores; drn: the reference's, which fades at the border"
    ),
    "model.precision": Field(
        "float32", one_of("float32", "tf32", "bfloat16"), "of convolutions", also={"imagenet": "float32"}
    ),
    "model.remat": Field(
        "",
        Range("levels such as 0-2, all, or empty"),
        "levels of the encoder that the backward pass computes again to save memory; not on CPU",
        changes=NOTHING,
    ),
    # ---- optim ----
    "optim.lr": Field(1e-3, POSITIVE, "learning rate", also={"imagenet": 0.1}),
    "optim.lr_rule": Field(
        "fixed", one_of("fixed", "linear"), f"linear: lr times batch_size / {PAPER_BATCH}, the paper's batch"
    ),
    "optim.name": Field("sgd", one_of("sgd", "adamw"), "optimizer"),
    "optim.momentum": Field(0.9, NOT_NEGATIVE, "of SGD; the first decay of AdamW's moments", also={"imagenet": 0.9}),
    "optim.weight_decay": Field(
        1e-4,
        NOT_NEGATIVE,
        "SGD adds it to the gradient; AdamW decays beside it, but no norms and biases",
        also={"imagenet": 1e-4},
    ),
    "optim.schedule": Field("poly", one_of("poly", "cosine"), "how lr falls to 0"),
    "optim.poly_power": Field(0.9, NOT_NEGATIVE, "poly: lr falls by (1 - step / steps) to this power"),
    "optim.warmup_steps": Field(0, NOT_NEGATIVE, "steps over which lr rises in a straight line"),
    "optim.encoder_lr_scale": Field(1.0, POSITIVE, "factor on the learning rate of the encoder"),
    "optim.heads_lr_scale": Field(1.0, POSITIVE, "the same for the decoders"),
    "optim.encoder_decay_scale": Field(1.0, NOT_NEGATIVE, "factor on the weight decay of the encoder"),
    "optim.heads_decay_scale": Field(1.0, NOT_NEGATIVE, "the same for the decoders"),
    # ---- train ----
    "train.steps": universal(2000, AT_LEAST_1, "of the universal networks; the paper: 200 epochs of N / batch_size"),
    "train.batch_size": Field(10, AT_LEAST_1, "labeled images per domain and step", also={"imagenet": 256}),
    "train.unlabeled_batch_size": universal(10, AT_LEAST_1, "unlabeled images per domain and micro-batch"),
    "train.unlabeled_batches": universal("pool", _BATCHES, "micro-batches per step", per_domain=True, mixed=True),
    "train.seed": Field(0, SEED, "of weights and order of images", sweep="set", also={"imagenet": 0}),
    "train.eval_every": Field(50, AT_LEAST_1, "steps between evaluations"),
    "train.eval_batch_size": Field(10, AT_LEAST_1, "images", also={"imagenet": 256}),
    "train.checkpoint_every": Field(
        100, AT_LEAST_1, "steps between checkpoints", changes=NOTHING, also={"imagenet": 1000}
    ),
    "train.log_every": Field(10, AT_LEAST_1, "steps between lines of the log", changes=NOTHING, also={"imagenet": 50}),
    "train.shard_parameters": Field(
        False, BOOL, "split large parameters and their momentum over the devices: less memory on each", changes=NOTHING
    ),
    # ---- usss: label embeddings, then Eq. 5, then what keeps the entropy terms from collapse (docs/collapse.md) ----
    "usss.single_steps": Field(2000, AT_LEAST_1, "of the single-domain networks"),
    "usss.single_from": Field(
        "",
        PATH,
        "another run's workdir whose single-domain networks are used; empty: trained in this one",
        path=True,
        changes=NOTHING,
        sweep="set",
    ),
    "usss.label_embeddings": universal(
        "prototypes", _EMBEDDINGS, "where label embeddings are from", path=True, changes=FILE, makes=_WITH_EMBEDDINGS
    ),
    "usss.embeddings_per_class": universal(
        1, AT_LEAST_1, "K: of prototypes, K-means inside each class (appendix B.3); of random", makes=_WITH_EMBEDDINGS
    ),
    "usss.embed_dim": universal(128, AT_LEAST_1, "d, the dimension of the embeddings"),
    "usss.alpha": universal(1.0, NOT_NEGATIVE, "weight of the cross term in Eq. 5", makes=_UNSUPERVISED),
    "usss.beta": universal(1.0, NOT_NEGATIVE, "weight of the within term in Eq. 5", makes=("full", "direct")),
    "usss.similarity_scale": universal(
        1.0, POSITIVE, "inverse temperature of the similarities", makes=_WITH_EMBEDDINGS
    ),
    "usss.theta": universal(
        1.0, SHARE, "Eq. 7, moving average of the label embeddings; 1: they stay", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_supervision": universal(
        0.0, NOT_NEGATIVE, "weight of the cross-entropy of the similarities on labeled images", makes=_WITH_EMBEDDINGS
    ),
    "usss.diversity": universal(
        0.0,
        NOT_NEGATIVE,
        "weight of the entropy of the mean prediction, which the entropy terms are less by",
        makes=_UNSUPERVISED,
    ),
    "usss.normalize_embedding": universal(False, BOOL, "pixel embeddings of unit length", makes=_WITH_EMBEDDINGS),
    "usss.embedding_lr_scale": universal(
        1.0, POSITIVE, "factor on the learning rate of the entropy module", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_bias": universal(True, BOOL, "whether the entropy module has a bias", makes=_WITH_EMBEDDINGS),
    "usss.entropy_warmup": universal(
        0,
        NOT_NEGATIVE,
        "steps over which the weights of the entropy terms rise from 0 in a straight line",
        makes=_UNSUPERVISED,
    ),
    # ---- hung: Hung et al. 2018 ----
    "hung.adversarial": universal(0.01, NOT_NEGATIVE, "weight of the adversarial term on labeled images"),
    "hung.adversarial_unlabeled": universal(0.001, NOT_NEGATIVE, "the same on unlabeled images"),
    "hung.semi": universal(0.1, NOT_NEGATIVE, "weight of the self-taught term"),
    "hung.threshold": universal(0.2, SHARE, "confidence from which a pixel is self-taught"),
    "hung.semi_start": universal(0.25, SHARE, "share of the steps before the self-taught term"),
    "hung.lr": universal(1e-4, POSITIVE, "Adam's learning rate of the discriminator"),
    # ---- imagenet ----
    "imagenet.crop": imagenet(224, AT_LEAST_1, "side of the images that the network sees, in pixels"),
    "imagenet.eval_resize": imagenet(
        256, AT_LEAST_1, "shorter side of an evaluated image before its centre is cropped"
    ),
    "imagenet.min_scale": imagenet(0.08, POSITIVE_SHARE, "least share of an image's area that a random crop takes"),
    "imagenet.epochs": imagenet(120.0, POSITIVE, "passes over the training images"),
    "imagenet.decay_epochs": imagenet(
        30.0, POSITIVE, "after each so many epochs the learning rate is multiplied by `decay`"
    ),
    "imagenet.decay": imagenet(0.1, POSITIVE_SHARE, "see `decay_epochs`"),
    "imagenet.eval_epochs": imagenet(1.0, POSITIVE, "epochs between evaluations"),
}
