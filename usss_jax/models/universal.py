"""The universal model (Figure 2 of the paper): one encoder, one decoder per domain, one embedding head."""

from collections.abc import Callable, Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from usss_jax.errors import InputError
from usss_jax.models import heads
from usss_jax.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Normalization
from usss_jax.models.encoders import PRECISIONS, create_encoder
from usss_jax.models.lateral import Lateral
from usss_jax.models.layers import scaled
from usss_jax.models.upsample import MODES

NORMALIZE = ("encoder", "imagenet", "none")
BATCH_NORM = ("domain", "joint", "frozen")
LATERAL_CHANNELS = 256  # before `width`


class UniversalModel(nn.Module):
    """Shared encoder F, decoders G_k, the linear map of the entropy module E, and image-level heads if asked for.

    Decoders and embedding work at the encoder's stride; their scores are upsampled afterwards (models/upsample.py).

    Attributes:
      encoder: module images [B, H, W, 3] -> features [B, h, w, C] with the interface of `Encoder` (models/encoder.py).
      num_classes: number of classes of every domain, keyed by the domain's name.
      embed_dim: d of the label embeddings; 0 builds no entropy module (single-domain networks, Univ-basic).
      upsample: "bilinear" or "drn", the upsampling of scores to image size (models/upsample.py).
      normalize: "encoder" (as its published weights expect), "imagenet" (subtract the mean, divide by the standard
        deviation of ImageNet) or "none", for images in [0, 1].
      embed_bias: whether E has a bias, as in the paper; with it E can map every pixel to one label embedding.
      head: makes a decoder from its number of classes (models/heads.py).
      image_head: makes the head that scores which classes an image contains, from the number of classes of a domain
        (models/heads.py); None: no domain has one.
      lateral_channels: channels of the features that combine the encoder's with those of its field `finer`
        (models/lateral.py); 0: the encoder's own features.
      batch_norm: what batch norms normalise by in training: the statistics of every domain's batch ("domain"), those of
        all domains' batches together ("joint"), or, in the encoder, the running statistics, which then do not change
        ("frozen"; the lateral connection is new, and normalises by every domain's batch).
    """

    encoder: Encoder
    num_classes: Mapping[str, int]
    embed_dim: int = 0
    upsample: str = "bilinear"
    normalize: str = "encoder"
    embed_bias: bool = True
    head: Callable[[int], nn.Module] = heads.linear
    image_head: Callable[[int], nn.Module] | None = None
    lateral_channels: int = 0
    batch_norm: str = "domain"

    @property
    def stride(self) -> int:
        """Pixels per cell of features, logits and embedding, along each axis."""
        return self.encoder.finer if self.lateral_channels else self.encoder.stride

    @property
    def out_channels(self) -> int:
        """Channels C of the features."""
        return self.lateral_channels or self.encoder.out_channels

    @property
    def normalization(self) -> Normalization | None:
        """Mean and standard deviation that images in [0, 1] are normalised by."""
        by_name = {"encoder": self.encoder.normalization, "imagenet": (IMAGENET_MEAN, IMAGENET_STD), "none": None}
        return by_name[self.normalize]

    def setup(self):
        """Build the other parts, with parameters under "lateral", "decoder_DOMAIN", "image_DOMAIN" and "embedding"."""
        if self.lateral_channels:
            factor = self.encoder.stride // self.encoder.finer
            numerics = {"dtype": self.encoder.dtype, "precision": self.encoder.precision}
            self.combine = Lateral(self.lateral_channels, factor, **numerics, name="lateral")
        self.decoder = {domain: self.head(n) for domain, n in self.num_classes.items()}
        if self.image_head:
            self.image = {domain: self.image_head(n) for domain, n in self.num_classes.items()}
        if self.embed_dim:
            self.embedding = heads.linear(self.embed_dim, self.embed_bias)

    def __call__(self, images):
        """Run every part once to create the parameters; `images` [B, H, W, 3]."""
        return self.score(self.encode(images))

    def score(self, features):
        """Run every head: features [B, h, w, C] -> (logits [B, h, w, classes] by domain, embedding or None).

        The scores of whole images are computed to create their parameters alone; call `image_scores` for their values.
        """
        logits = {domain: self.decode(features, domain) for domain in self.num_classes}
        if self.image_head and self.is_initializing():
            for domain in self.num_classes:
                self.image_scores(features, domain)
        return logits, self.embed(features) if self.embed_dim else None

    def encode(self, images, train: bool = False, groups: int = 1):
        """F: images [B, H, W, 3], uint8 or floating point in [0, 1] -> features [B, h, w, C], at least float32."""
        if not jnp.issubdtype(images.dtype, jnp.floating):
            images = images.astype(jnp.float32) / 255
        if self.normalization:
            mean, std = (jnp.asarray(values, images.dtype) for values in self.normalization)
            images = (images - mean) / std
        features = self.encoder(images, train and self.batch_norm != "frozen", groups)
        if self.lateral_channels:
            features = self.combine(*features, train, groups)
        return features.astype(jnp.promote_types(features.dtype, jnp.float32))

    def decode(self, features, domain: str):
        """G_k before its upsampling: features [B, h, w, C] -> logits [B, h, w, num_classes[domain]]."""
        return self.decoder[domain](features)

    def image_scores(self, features, domain: str):
        """Scores of the classes that images contain: features [B, h, w, C] -> [B, num_classes[domain]], no sigmoid.

        The model must have an `image_head`.
        """
        return self.image[domain](features)

    def embed(self, features):
        """E before its upsampling: features [B, h, w, C] -> embedding [B, h, w, embed_dim] (not normalised)."""
        return self.embedding(features)


def create_model(
    encoder: str,
    num_classes: Mapping[str, int],
    *,
    stride: int = 0,
    lateral: int = 0,
    embed_dim: int = 0,
    width: float = 1.0,
    precision: str = "float32",
    head: str = "linear",
    image_head: str = "none",
    image_head_width: float = 1.0,
    upsample: str = "bilinear",
    normalize: str = "encoder",
    embed_bias: bool = True,
    remat: str = "",
    frozen_levels: int = 0,
    batch_norm: str = "domain",
) -> UniversalModel:
    """Build a universal model from values of the config (docs/config.md).

    `stride` is the encoder's, 0 for its default; `lateral` is the stride of a finer level to combine its features with,
    0 for none. `image_head`, of `heads.IMAGE_HEADS`, gives every domain a head that scores whole images; the factor
    `image_head_width` on its hidden channels does not depend on `width`.

    Raises:
      InputError: if a name is unknown (the message lists the known ones) or another value is invalid.

    >>> import usss_jax
    >>> model = usss_jax.create_model("drn_d_22", {"camvid": 11, "cityscapes": 19}, embed_dim=128)
    >>> model.stride, model.encoder.out_channels
    (8, 512)
    """
    for field, value, known in (
        ("model.precision", precision, tuple(PRECISIONS)),
        ("model.head", head, heads.HEADS),
        ("model.upsample", upsample, MODES),
        ("model.batch_norm", batch_norm, BATCH_NORM),
        ("data.normalize", normalize, NORMALIZE),
        ("image_head", image_head, heads.IMAGE_HEADS),
    ):
        if value not in known:
            raise InputError(f"{field}={value!r} is not one of {', '.join(known)}")
    if not image_head_width > 0:
        raise InputError(f"image_head_width={image_head_width} must be positive")
    dtype, lax_precision = PRECISIONS[precision]
    net = create_encoder(
        encoder,
        stride=stride,
        lateral=lateral,
        width=width,
        remat=remat,
        frozen_levels=frozen_levels,
        dtype=dtype,
        precision=lax_precision,
    )
    return UniversalModel(
        net,
        dict(num_classes),
        embed_dim=embed_dim,
        upsample=upsample,
        normalize=normalize,
        embed_bias=embed_bias,
        head=heads.decoder(head, width, dtype, lax_precision),
        image_head=heads.image_head(image_head, image_head_width, dtype, lax_precision),
        lateral_channels=scaled(LATERAL_CHANNELS, width) if lateral else 0,
        batch_norm=batch_norm,
    )


def in_order(model: UniversalModel, domains: Iterable[str]) -> list[str]:
    """Sort domains by their order in the model: jit sorts dicts by key, but batch statistics depend on the order."""
    order = list(model.num_classes)
    return sorted(domains, key=lambda d: order.index(d) if d in order else len(order))


def encode_groups(model: UniversalModel, variables: Mapping, images: Mapping[str, jax.Array], dropout=None):
    """Encode one training batch per domain; domains of equal shape share one forward pass.

    Every batch has its own batch statistics, unless the model joins them. They update the running statistics pass by
    pass, within a shared pass in the order of the model's domains.

    Args:
      model: the universal model.
      variables: {"params", "batch_stats"}; the latter is empty for an encoder without batch statistics.
      images: {domain: [B, H, W, 3]}, uint8 or floating point in [0, 1]; shapes may differ between domains.
      dropout: random key for the dropout of encoders that have it; None: no dropout.

    Returns:
      ({domain: features [B, h, w, C]}, new batch statistics).

    Raises:
      InputError: if the model joins the statistics of batches of different shapes.
    """
    passes: dict[tuple, list[str]] = {}
    for domain in in_order(model, images):
        passes.setdefault(images[domain].shape, []).append(domain)
    joint = model.batch_norm == "joint"
    if joint and len(passes) > 1:
        shapes = ", ".join(f"{'x'.join(map(str, shape[:3]))} of {domains[0]}" for shape, domains in passes.items())
        raise InputError(
            f"model.batch_norm=joint: batches {shapes} differ; give all domains one data.crop_size and batch size, or "
            "set model.batch_norm=domain"
        )
    stats, features = variables["batch_stats"], {}
    for i, domains in enumerate(passes.values()):
        stacked = jnp.stack([images[d] for d in domains], axis=1)  # interleaved: see GroupedBatchNorm
        encoded, updates = model.apply(
            {"params": variables["params"], "batch_stats": stats},
            stacked.reshape(-1, *stacked.shape[2:]),
            train=True,
            groups=1 if joint else len(domains),
            method="encode",
            mutable=["batch_stats"],
            rngs={} if dropout is None else {"dropout": jax.random.fold_in(dropout, i)},
        )
        stats = updates.get("batch_stats", stats)
        encoded = encoded.reshape(-1, len(domains), *encoded.shape[1:])
        features.update({d: encoded[:, g] for g, d in enumerate(domains)})
    return {d: features[d] for d in images}, stats
