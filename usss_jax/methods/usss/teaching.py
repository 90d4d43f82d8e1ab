"""Settings of a teacher, and of the similarities with label embeddings that it teaches."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from usss_jax.config import fields, per_domain, read_number
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.methods.usss.terms import Objective
from usss_jax.methods.usss.views import strong_augment

WEAK = "features"  # the name of the weak view, whose features are perturbed; the others are strong0, strong1, ...


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Settings of a teacher: the fields of config/teacher.py, some by domain.

    Attributes:
      weight, threshold: by domain.
      strong: augmentation of the strong views.
      others: the fields of the same names.
    """

    decay: float
    decay_warmup: bool
    weight: Mapping[str, float]
    ramp: int
    targets: str
    threshold: Mapping[str, float]
    threshold_kind: str
    threshold_decay: float
    mean_over: str
    cross_weight: float
    similarity_weight: float
    views: int
    across: str
    feature_dropout: float
    strong: DeviceAugment

    @property
    def view_weights(self) -> dict[str, float]:
        """Weight of every view, which sum to 1; the weak one has half, as in UniMatch."""
        strong = (0.5 if self.feature_dropout else 1.0) / self.views
        found = {f"strong{i}": strong for i in range(self.views)}
        return {**found, WEAK: 0.5} if self.feature_dropout else found

    @property
    def agreement_weights(self) -> dict[str, float]:
        """Weights of the agreement of each kind of `targets.other_scores`."""
        return {"decoders": self.cross_weight, "similarities": self.similarity_weight}


@dataclasses.dataclass(frozen=True)
class Similarity:
    """What similarities with label embeddings need.

    Attributes:
      objective: with the weight of their supervision on labeled images, and the decay `theta` of the label embeddings'
        moving average.
      classes: by domain the train id of each label embedding.
      start: by domain the label embeddings before the first step, [n, d].
    """

    objective: Objective
    classes: Mapping[str, Sequence[int]]
    start: Mapping[str, jax.typing.ArrayLike]


def create_teaching(config: ConfigDict, domains: Sequence[str]) -> Teaching:
    """Settings by the config's section `teacher`, for the given domains.

    Raises:
      InputError: for a value per domain that is out of range.

    >>> from usss_jax.config import default_config
    >>> teaching = create_teaching(default_config(), ["city", "town"])
    >>> teaching.threshold, teaching.view_weights
    ({'city': 0.95, 'town': 0.95}, {'strong0': 1.0})
    """
    known, values = fields(), dict(config.teacher)
    for last in ("weight", "threshold"):
        name = f"teacher.{last}"
        given = per_domain(values[last], domains, name, read_number(known[name].range))
        values[last] = {d: known[name].default if value is None else value for d, value in given.items()}
    for name in ("color_jitter", "grey", "blur", "mix", "export"):
        del values[name]
    return Teaching(**values, strong=strong_augment(config.teacher))


def partner(domains: Sequence[str], domain: str, view: int) -> str:
    """Other domain, parts of whose images are pasted: the next in order in view 0, the one after it in view 1, ...

    >>> [partner(["a", "b", "c"], "b", view) for view in range(3)]
    ['c', 'a', 'c']
    """
    return domains[(domains.index(domain) + 1 + view % (len(domains) - 1)) % len(domains)]
