"""A discriminator D that is trained against a segmentation network, in the state of its training."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from usss_jax.engine.optim import create_schedule
from usss_jax.engine.state import born_on
from usss_jax.models import discriminator as networks
from usss_jax.models.encoders import PRECISIONS
from usss_jax.models.universal import UniversalModel
from usss_jax.models.variables import seed_bits, seeded
from usss_jax.parallel.sharding import replicated


@dataclasses.dataclass(frozen=True)
class Opponent:
    """The discriminator of Hung et al. and its optimiser: Adam with decay rates 0.9 and 0.99 and the poly schedule.

    Its parameters and optimiser state are "discriminator" and "discriminator_opt_state" of `state.extra`.

    Attributes:
      lr: learning rate of Adam.
      power: power of the poly schedule.
      steps: number of training steps.
      width: factor on D's channels.
      precision: of D's convolutions, a key of `models.encoders.PRECISIONS`.
    """

    lr: float
    power: float
    steps: int
    width: float
    precision: str

    @property
    def network(self) -> networks.Discriminator:
        """The network D."""
        dtype, precision = PRECISIONS[self.precision]
        return networks.Discriminator(self.width, dtype, precision)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of D."""
        return optax.adam(create_schedule(self.lr, self.steps, power=self.power), b1=0.9, b2=0.99)

    def create(self, model: UniversalModel, *, mesh: Mesh, seed: int, split: bool = False) -> dict[str, Any]:
        """Create D's random parameters and the state of its Adam on the mesh, for `state.extra`.

        Args:
          model: a model with one decoder.
          mesh, seed, split: see `engine.state.create_state`.

        Raises:
          ValueError: if the model has not exactly one decoder.
        """
        bits = seed_bits(seed, 1)  # 0 is for the segmentation network
        maps = np.zeros((1, networks.STRIDE, networks.STRIDE, model.num_classes[only_decoder(model)]), np.float32)
        params = born_on(mesh, seeded(self.network), bits, maps, split=split)[0]["params"]
        opt_state = born_on(mesh, self.optimizer.init, params, split=split)[0]
        return {"discriminator": params, "discriminator_opt_state": opt_state}

    def fixed(self, extra: Mapping[str, Any], mesh: Mesh | None):
        """D's parameters of `state.extra`, whole on every device."""
        params = extra["discriminator"]
        return params if mesh is None else jax.lax.with_sharding_constraint(params, replicated(mesh))

    def update(self, extra: Mapping[str, Any], fixed, loss: Callable, *arguments) -> tuple[dict[str, Any], dict]:
        """One step of D on loss(D's parameters, *arguments) -> (loss, scalars).

        Args:
          extra: `state.extra`.
          fixed: D's parameters of `fixed`.
          loss: loss of D.
          *arguments: of the loss; constants.

        Returns:
          (new `state.extra`, scalars).
        """
        (_, scalars), gradients = jax.value_and_grad(loss, has_aux=True)(fixed, *arguments)
        updates, opt_state = self.optimizer.update(gradients, extra["discriminator_opt_state"], extra["discriminator"])
        params = optax.apply_updates(extra["discriminator"], updates)
        return {**extra, "discriminator": params, "discriminator_opt_state": opt_state}, scalars

    def __call__(self, params, maps):
        """D's logits [B, H, W] for class probabilities or one-hot labels [B, H, W, C]."""
        return self.network.apply({"params": params}, maps)


def only_decoder(model: UniversalModel) -> str:
    """Name of the only decoder of a model; raises ValueError if it has several.

    >>> import usss_jax
    >>> only_decoder(usss_jax.create_model("drn_d_22", {"camvid": 11}))
    'camvid'
    """
    if len(model.num_classes) != 1:
        raise ValueError(f"this training needs a model of one domain, not of {', '.join(model.num_classes)}")
    return next(iter(model.num_classes))
