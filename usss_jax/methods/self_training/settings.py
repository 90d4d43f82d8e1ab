"""How a round makes its pseudo-labels."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from usss_jax.data.pools import Pools
from usss_jax.methods.self_training.patches import Inference
from usss_jax.methods.self_training.schedule import Round


@dataclasses.dataclass(frozen=True)
class Labelling:
    """How images get pseudo-labels.

    Attributes:
      portion: p, see `class_thresholds`.
      policy: see `class_thresholds`.
      threshold: of every class, instead of `portion` and `policy`; 0: none.
      sampled: "conf" or "prob" (`confidence_samples`, `probability_samples`).
      stride: of these samples.
      patches: K; 0: single inference.
      inference: see `Inference`.
      upsample: "bicubic" or "bilinear", how probabilities of cells are enlarged.
      scale: factor on the image size for single inference.
      seed, round: of the run, and of the patches.
      prior: file of the spatial prior, float32 [H, W, C], or None.
      never: classes that no pixel is labeled as: the network has seen no pixel of them.
      rare_count, rare_share: see `rare_classes`.
      keep_scores: whether scores stay on disk during the pass, or are computed again when needed.
    """

    portion: float
    policy: str
    threshold: float
    sampled: str
    stride: int
    patches: int
    inference: Inference
    upsample: str
    scale: float
    seed: int
    round: int
    prior: pathlib.Path | None
    never: tuple[int, ...]
    rare_count: int
    rare_share: float
    keep_scores: bool

    @property
    def about(self) -> dict[str, Any]:
        """What tells the pseudo-labels of a network from those with other settings, as JSON."""
        kept: dict[str, Any] = {"threshold": self.threshold} if self.threshold else {"portion": self.portion}
        kept |= {"policy": self.policy, "sampled": self.sampled, "stride": self.stride}
        inference = {"flip": self.inference.flip, "upsample": self.upsample, "scale": self.scale}
        if self.patches:
            inference |= {key: getattr(self.inference, key) for key in ("patch", "full_image", "vote", "uncovered")}
        about = {"round": self.round, "seed": self.seed, "patches": self.patches, "prior": self.prior is not None}
        return {**about, **kept, **inference}


def labelling_of(
    rounds: ConfigDict,
    *,
    portion: float,
    policy: str,
    patches: bool,
    seed: int,
    round: int,
    threshold: float = 0.0,
    prior: pathlib.Path | None = None,
    never: tuple[int, ...] = (),
) -> Labelling:
    """Settings of one round, by the config's section `rounds`; `patches`: whether its `patches` are used."""
    patches = patches and rounds.patches > 0
    inference = Inference(
        patch=rounds.patch_size,
        batch=rounds.patch_batch,
        full_image=rounds.full_image,
        flip=rounds.flip,
        vote=rounds.vote,
        uncovered=rounds.uncovered,
    )
    return Labelling(
        portion=portion,
        policy=policy,
        threshold=threshold,
        sampled=rounds.sampled,
        stride=rounds.sample_stride,
        patches=rounds.patches if patches else 0,
        inference=inference,
        upsample=rounds.upsample,
        scale=1.0 if patches else rounds.label_scale,
        seed=seed,
        round=round,
        prior=prior,
        never=never,
        rare_count=rounds.mine_classes,
        rare_share=rounds.mine_below,
        keep_scores=rounds.keep_scores,
    )


def labelling_of_round(config: ConfigDict, part: Round, policy: str = "cb", patches: bool = True, **more) -> Labelling:
    """Settings of a round by a config; `policy`, `patches` and more as for `labelling_of`."""
    seed = config.train.seed
    return labelling_of(
        config.rounds, portion=part.portion, policy=policy, patches=patches, seed=seed, round=part.index, **more
    )


def never_labeled(pool: Pools) -> tuple[int, ...]:
    """Classes without a pixel in the labeled images: what a network says of them is chance."""
    return tuple(np.flatnonzero(pool.label_counts.sum(0) == 0).tolist())
