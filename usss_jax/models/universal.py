"""The universal model (Figure 2 of the paper): one encoder, one decoder per domain, one embedding head."""

from collections.abc import Callable, Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from usss_jax.errors import InputError
from usss_jax.models import convnext, dinov2, drn, heads
from usss_jax.models.drn import PAPER_NAMES
from usss_jax.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from usss_jax.models.upsample import MODES

# Every encoder by its name in the config, made with width, dtype and precision (models/encoder.py).
ENCODERS: dict[str, Callable[..., Encoder]] = {**drn.ENCODERS, **convnext.ENCODERS, **dinov2.ENCODERS}

NORMALIZE = ("imagenet", "none")
PRECISIONS = {
    "float32": (None, lax.Precision.HIGHEST),  # HIGHEST: no TF32 on GPUs
    "tf32": (None, lax.Precision.DEFAULT),
    "bfloat16": (jnp.bfloat16, lax.Precision.DEFAULT),
}


class UniversalModel(nn.Module):
    """Shared encoder F, decoders G_k and the linear map of the entropy module E.

    Decoders and embedding work at the encoder's stride; their scores are upsampled afterwards (models/upsample.py).

    Attributes:
      encoder: module images [B, H, W, 3] -> features [B, h, w, C] with the interface of `Encoder` (models/encoder.py).
      num_classes: number of classes of every domain, keyed by the domain's name.
      embed_dim: d of the label embeddings; 0 builds no entropy module (single-domain networks, Univ-basic).
      upsample: "bilinear" or "drn", the upsampling of scores to image size (models/upsample.py).
      normalize: "imagenet" (subtract the mean, divide by the standard deviation) or "none", for images in [0, 1].
      embed_bias: whether E has a bias, as in the paper; with it E can map every pixel to one label embedding.
      head: makes a decoder from its number of classes (models/heads.py).
    """

    encoder: Encoder
    num_classes: Mapping[str, int]
    embed_dim: int = 0
    upsample: str = "bilinear"
    normalize: str = "none"
    embed_bias: bool = True
    head: Callable[[int], nn.Module] = heads.linear

    @property
    def stride(self) -> int:
        """Pixels per cell of features, logits and embedding, along each axis."""
        return self.encoder.stride

    def setup(self):
        """Build the heads, with parameters under "decoder_DOMAIN" and "embedding"."""
        self.decoder = {domain: self.head(n) for domain, n in self.num_classes.items()}
        if self.embed_dim:
            self.embedding = heads.linear(self.embed_dim, self.embed_bias)

    def __call__(self, images):
        """Run every part once to create the parameters; `images` [B, H, W, 3]."""
        return self.score(self.encode(images))

    def score(self, features):
        """Run every head: features [B, h, w, C] -> (logits [B, h, w, classes] by domain, embedding or None)."""
        logits = {domain: self.decode(features, domain) for domain in self.num_classes}
        return logits, self.embed(features) if self.embed_dim else None

    def encode(self, images, train: bool = False, groups: int = 1):
        """F: images [B, H, W, 3], uint8 or floating point in [0, 1] -> features [B, h, w, C], at least float32."""
        if not jnp.issubdtype(images.dtype, jnp.floating):
            images = images.astype(jnp.float32) / 255
        if self.normalize == "imagenet":
            images = (images - jnp.asarray(IMAGENET_MEAN, images.dtype)) / jnp.asarray(IMAGENET_STD, images.dtype)
        features = self.encoder(images, train, groups)
        return features.astype(jnp.promote_types(features.dtype, jnp.float32))

    def decode(self, features, domain: str):
        """G_k before its upsampling: features [B, h, w, C] -> logits [B, h, w, num_classes[domain]]."""
        return self.decoder[domain](features)

    def embed(self, features):
        """E before its upsampling: features [B, h, w, C] -> embedding [B, h, w, embed_dim] (not normalised)."""
        return self.embedding(features)


def create_model(
    encoder: str,
    num_classes: Mapping[str, int],
    *,
    embed_dim: int = 0,
    width: float = 1.0,
    precision: str = "float32",
    upsample: str = "bilinear",
    normalize: str = "none",
    embed_bias: bool = True,
    remat: str = "",
) -> UniversalModel:
    """Build a universal model from values of the config (docs/config.md).

    Raises:
      InputError: if a name is unknown (the message lists the known ones) or another value is invalid.

    >>> import usss_jax
    >>> model = usss_jax.create_model("drn_d_22", {"camvid": 11, "cityscapes": 19}, embed_dim=128)
    >>> model.stride, model.encoder.out_channels
    (8, 512)
    """
    for field, value, known in (
        ("encoder", encoder, (*ENCODERS, *PAPER_NAMES)),
        ("precision", precision, tuple(PRECISIONS)),
        ("upsample", upsample, MODES),
        ("normalize", normalize, NORMALIZE),
    ):
        if value not in known:
            raise InputError(f"{field}={value!r} is not one of {', '.join(known)}")
    if not width > 0:
        raise InputError(f"width={width} must be positive")
    dtype, lax_precision = PRECISIONS[precision]
    create = ENCODERS[PAPER_NAMES.get(encoder, encoder)]
    levels = read_levels(remat, create().levels)
    net = create(width=width, dtype=dtype, precision=lax_precision, remat=levels)
    return UniversalModel(net, dict(num_classes), embed_dim, upsample, normalize, embed_bias)


def read_levels(text: str, count: int) -> tuple[int, ...]:
    """Parse the field `remat`: levels such as "0-2,8" of an encoder with `count` levels, or "all"; empty: none."""
    chosen: set[int] = set(range(count)) if text == "all" else set()
    for part in text.split(",") if text not in ("", "all") else ():
        first, dash, last = (word.strip() for word in part.partition("-"))
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last) < count):
            raise InputError(f"remat={text!r}: {part!r} is invalid; give levels from 0 to {count - 1}, or all")
        chosen |= set(range(int(first), int(last) + 1))
    return tuple(sorted(chosen))


def in_order(model: UniversalModel, domains: Iterable[str]) -> list[str]:
    """Sort domains by their order in the model: jit sorts dicts by key, but batch statistics depend on the order."""
    order = list(model.num_classes)
    return sorted(domains, key=lambda d: order.index(d) if d in order else len(order))


def encode_groups(model: UniversalModel, variables: Mapping, images: Mapping[str, jax.Array]):
    """Encode one training batch per domain; domains of equal shape share one forward pass.

    Every batch has its own batch statistics. They update the running statistics pass by pass, within a shared pass in
    the order of the model's domains.

    Args:
      model: the universal model.
      variables: {"params", "batch_stats"}; the latter is empty for an encoder without batch statistics.
      images: {domain: [B, H, W, 3]}, uint8 or floating point in [0, 1]; shapes may differ between domains.

    Returns:
      ({domain: features [B, h, w, C]}, new batch statistics).
    """
    passes: dict[tuple, list[str]] = {}
    for domain in in_order(model, images):
        passes.setdefault(images[domain].shape, []).append(domain)
    stats, features = variables["batch_stats"], {}
    for domains in passes.values():
        stacked = jnp.stack([images[d] for d in domains], axis=1)  # interleaved: see GroupedBatchNorm
        encoded, updates = model.apply(
            {"params": variables["params"], "batch_stats": stats},
            stacked.reshape(-1, *stacked.shape[2:]),
            train=True,
            groups=len(domains),
            method="encode",
            mutable=["batch_stats"],
        )
        stats = updates.get("batch_stats", stats)
        encoded = encoded.reshape(-1, len(domains), *encoded.shape[1:])
        features.update({d: encoded[:, g] for g, d in enumerate(domains)})
    return {d: features[d] for d in images}, stats
