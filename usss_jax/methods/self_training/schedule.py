"""The rounds of self-training: learning rate, portions, and the part of the source of each round (CBST)."""

import dataclasses
import math
import zlib

import numpy as np
from ml_collections import ConfigDict

POLICIES = ("cumulative", "random")


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A value that grows by `step` each round, up to `maximum`."""

    first: float
    step: float
    maximum: float

    def values(self, rounds: int) -> list[float]:
        """Values of all rounds, added up one after another as in the released schedule.

        >>> Ramp(first=0.25, step=0.25, maximum=0.5).values(3)
        [0.25, 0.5, 0.5]
        """
        values = [self.first]
        while len(values) < rounds:
            values.append(max(values[-1], min(values[-1] + self.step, self.maximum)))
        return values


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of self-training.

    Attributes:
      index: from 0.
      learning_rate: of the round's training.
      portion: p, share of the target's pixels of each class that becomes pseudo-labels.
      source_portion: share of the source images in the training set.
    """

    index: int
    learning_rate: float
    portion: float
    source_portion: float

    def seed(self, seed: int) -> int:
        """Seed of the order of images and of augmentation, from that of the run.

        >>> schedule(2)[1].seed(0)
        2942165697
        """
        return zlib.crc32(f"{seed}:{self.index}".encode())


def schedule(
    rounds: int,
    learning_rate: float = 1e-4,
    portion: Ramp = Ramp(0.15, 0.05, 0.5),
    source: Ramp = Ramp(0.03, 0.0025, 0.06),
) -> list[Round]:
    """Plan all rounds; the defaults are those for GTA5. The learning rate falls by sqrt(2) each round.

    >>> schedule(2)[1].portion
    0.2
    """
    parts = zip(portion.values(rounds), source.values(rounds), strict=True)
    return [Round(r, learning_rate / math.sqrt(2) ** r, *values) for r, values in enumerate(parts)]


def rounds_of(config: ConfigDict, source: Ramp = Ramp(1.0, 0.0, 1.0)) -> list[Round]:
    """Plan all rounds by the section `rounds` of a config; `source` is the share of the source images.

    >>> from usss_jax.config import default_config
    >>> [part.portion for part in rounds_of(default_config("mlsl"))][:2]
    [0.15, 0.2]
    """
    fields = config.rounds
    return schedule(fields.count, fields.lr, Ramp(fields.portion, fields.portion_step, fields.portion_max), source)


def round_steps(config: ConfigDict, images: int, batch_size: int) -> int:
    """Number of steps of a round, from the number of images of which `rounds.epochs` counts the passes.

    0 passes are as many steps as `train.steps`.
    """
    if not config.rounds.epochs:
        return config.train.steps
    return max(1, int(config.rounds.epochs * (images // batch_size)))


def source_subset(count: int, portion: float, *, seed: int, round: int, policy: str = "cumulative") -> np.ndarray:
    """Sample the source images of one round without replacement.

    Args:
      count: number of source images.
      portion: share of them; at least one image is chosen.
      seed: random seed.
      round: index of the round.
      policy: "cumulative": a round has all images of the rounds before it, if the portion does not fall; "random": each
        round samples anew.

    Returns:
      Indices, int64 [floor(count * portion)], in random order.

    Raises:
      ValueError: if the policy is unknown.

    >>> len(source_subset(24966, 0.03, seed=0, round=0))
    748
    """
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r} is not one of {', '.join(POLICIES)}")
    random = np.random.RandomState(seed if policy == "cumulative" else [seed, round])
    return random.permutation(count)[: max(1, int(count * portion))]
