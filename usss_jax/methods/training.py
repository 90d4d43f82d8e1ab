"""What the training of a segmentation network is given: its run, images, recipe, network and start."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data.domain import Domain
from usss_jax.data.pools import Pools, with_labels
from usss_jax.engine.state import TrainState
from usss_jax.models.universal import UniversalModel


@dataclasses.dataclass(frozen=True)
class Run:
    """What the jobs of a run share.

    Attributes:
      config: a checked config.
      workdir: parent of the jobs' folders.
      mesh: devices.
      pools: images of every domain.
      weights: state dict of a pretrained encoder, or None.
    """

    config: ConfigDict
    workdir: pathlib.Path
    mesh: Mesh
    pools: Mapping[str, Pools]
    weights: Mapping | None = None


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images a training uses.

    Attributes:
      pools: domains to evaluate on; empty: all domains of the run.
      train_on: labeled images to train on, by the name that they have in a batch; empty: those of `pools`.
      selected_by: domains whose average mIoU on val selects the best checkpoint; empty: those of `train_on` with
        labels.
      unlabeled_batches: micro-batches per step of each domain whose unlabeled images are used.
      validity: whether unlabeled examples have a map "valid" (`data.streams.step_batches`).
    """

    pools: Mapping[str, Pools] = dataclasses.field(default_factory=dict)
    train_on: Mapping[str, Pools] = dataclasses.field(default_factory=dict)
    selected_by: Sequence[str] = ()
    unlabeled_batches: Mapping[str, int] = dataclasses.field(default_factory=dict)
    validity: bool = False

    def of(self, run: Run) -> "Images":
        """Fill in what is empty."""
        pools = self.pools or run.pools
        train_on = self.train_on or pools
        selected_by = self.selected_by or list(with_labels(train_on))
        return dataclasses.replace(self, pools=pools, train_on=train_on, selected_by=selected_by)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a training differs from the `train` and `optim` sections of the config.

    Attributes:
      steps: number of steps; 0: `train.steps`.
      batch_size: labeled images per step and name of `Images.train_on`; 0: `train.batch_size`.
      eval_every: steps between evaluations; 0: `train.eval_every`.
      lr: learning rate; 0: `optim.lr`.
      seed: of the order of images and of augmentation; None: `train.seed`. The weights are by `train.seed`.
      trainable: whether parameters are trained, by name (`engine.optim.create_optimizer`); None: all are. Frozen levels
        of the encoder never are.
    """

    steps: int = 0
    batch_size: int = 0
    eval_every: int = 0
    lr: float = 0.0
    seed: int | None = None
    trainable: Callable[[str], bool] | None = None

    def by(self, config: ConfigDict) -> "Recipe":
        """Fill in the numbers that are 0."""
        train = config.train
        return dataclasses.replace(
            self,
            steps=self.steps or train.steps,
            batch_size=self.batch_size or train.batch_size,
            eval_every=self.eval_every or train.eval_every,
            lr=self.lr or config.optim.lr,
        )


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network has beside an encoder.

    Attributes:
      decoders: name of every decoder, and the domain whose classes it has; None: one for each of `Images.pools` with
        labels.
      entropy_module: whether it has the embedding head E, as `usss.embed*` of the config describes it.
      image_head: arguments of `describe_network` for the image-level head; empty: it has none.
    """

    decoders: Mapping[str, Domain] | None = None
    entropy_module: bool = False
    image_head: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Start:
    """The state before the first step.

    Attributes:
      initial: loads the variables of a finished network to start from; None: start from `Run.weights`, or at random.
      make_extra: returns `state.extra`.
      begin: changes the new state, whose variables are known then.
    """

    initial: Callable[[], Mapping[str, Any]] | None = None
    make_extra: Callable[[UniversalModel], Mapping[str, Any]] = lambda model: {}
    begin: Callable[[TrainState], TrainState] = lambda state: state
