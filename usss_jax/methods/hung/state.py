"""What training of the baseline of Hung et al. (2018) is set to and what it changes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from usss_jax.engine.optim import poly_schedule
from usss_jax.engine.state import TrainState, born_on, create_state, seed_bits, seeded
from usss_jax.models import pretrained
from usss_jax.models.discriminator import STRIDE, Discriminator
from usss_jax.models.universal import PRECISIONS, UniversalModel


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """Constants of the method, with the paper's values.

    Attributes:
      adversarial: lambda_adv of labeled images.
      adversarial_unlabeled: lambda_adv of unlabeled images, from the first step on.
      semi: lambda_semi, weight of the self-taught term.
      threshold: T_semi, D's confidence above which a pixel takes part in it.
      semi_start: share of the steps before the self-taught term begins (the paper: 5000 of 20000).
      lr: of D's Adam.
      power: of the poly schedule of that learning rate.
      width: factor on D's channels.
      precision: of D's convolutions, a name of models/universal.py.
    """

    adversarial: float = 0.01
    adversarial_unlabeled: float = 0.001
    semi: float = 0.1
    threshold: float = 0.2
    semi_start: float = 0.25
    lr: float = 1e-4
    power: float = 0.9
    width: float = 1.0
    precision: str = "float32"

    @property
    def discriminator(self) -> Discriminator:
        """D."""
        dtype, precision = PRECISIONS[self.precision]
        return Discriminator(self.width, dtype, precision)

    def discriminator_optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam with the moments' decay 0.9 and 0.99 and the poly schedule (section 4 of the paper)."""
        return optax.adam(poly_schedule(self.lr, steps, self.power), b1=0.9, b2=0.99)

    def semi_weight(self, step, steps: int):
        """Weight of the self-taught term after `step` finished steps of `steps`."""
        return jnp.where(step >= round(self.semi_start * steps), self.semi, 0.0)


@flax.struct.dataclass
class AdversarialState(TrainState):
    """State of adversarial training: that of the segmentation network, and D's.

    Attributes:
      discriminator: parameters of D.
      discriminator_opt_state: of its Adam.
    """

    discriminator: Any
    discriminator_opt_state: Any


def create_adversarial_state(
    model: UniversalModel,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    label_embeddings: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
    initial: Mapping[str, Any] | None = None,
    *,
    objective: Adversarial,
    steps: int,
    split: bool = False,
) -> tuple[AdversarialState, pretrained.Report | None]:
    """Create the state on the mesh; the segmentation network starts as with `create_state`.

    Args:
      model, tx, seed, mesh, label_embeddings, weights, initial: see `create_state`.
      objective: says what D is.
      steps: of the stage, for D's schedule.
      split: see `create_state`; D likewise.

    Returns:
      (state, report of what the pretrained weights matched or None).

    Raises:
      ValueError: if the model has not exactly one domain.
      InputError: if a pretrained tensor does not fit.
    """
    classes = model.num_classes[only_domain(model)]
    state, report = create_state(model, tx, seed, mesh, label_embeddings, weights, initial, split=split)
    bits = seed_bits(seed, 1)  # 0 stands for the segmentation network
    maps = np.zeros((1, STRIDE, STRIDE, classes), np.float32)
    params = born_on(mesh, seeded(objective.discriminator), bits, maps, split=split)[0]["params"]
    extended = AdversarialState(
        **{field.name: getattr(state, field.name) for field in dataclasses.fields(state)},
        discriminator=params,
        discriminator_opt_state=born_on(mesh, objective.discriminator_optimizer(steps).init, params, split=split)[0],
    )
    return extended, report


def only_domain(model: UniversalModel) -> str:
    """Name of the model's one domain; ValueError if it has another number of them."""
    if len(model.num_classes) != 1:
        raise ValueError(f"adversarial training takes a model of one domain, not of {', '.join(model.num_classes)}")
    return next(iter(model.num_classes))
