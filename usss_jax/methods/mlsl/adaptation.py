"""A run of MLSL: its two domains, and what all of its trainings share."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config import names
from usss_jax.data import class_map as class_maps
from usss_jax.data.domain import Domain
from usss_jax.data.pools import Pools
from usss_jax.engine.job import Fit
from usss_jax.errors import InputError
from usss_jax.methods.mlsl.terms import Supervision
from usss_jax.methods.segmentation import fit
from usss_jax.methods.training import Images, Network, Run


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """A run and its two domains.

    Attributes:
      run: its pools have the classes of the target.
      source, target: names of the domains; the decoder has the name of the target.
    """

    run: Run
    source: str
    target: str

    @property
    def config(self) -> ConfigDict:
        """Config of the run."""
        return self.run.config

    @property
    def domain(self) -> Domain:
        """The target."""
        return self.pools(self.target).domain

    def pools(self, name: str) -> Pools:
        """Images of a domain."""
        return self.run.pools[name]

    def fit(
        self, name: str, compute: Callable, *, images: Images = Images(), image_labels: bool = False, **arguments
    ) -> Fit:
        """`methods.segmentation.fit` of a network with the target's decoder, selected on the source's val split.

        Args:
          name, compute, images, arguments: of that function.
          image_labels: whether the network has the image-level head.
        """
        if not images.selected_by:
            images = dataclasses.replace(images, selected_by=[self.source])
        head = image_head(self.config) if image_labels else {}
        network = Network(decoders={self.target: self.domain}, image_head=head)
        return fit(self.run, name, compute, images=images, network=network, **arguments)


def pair(run: Run) -> Adaptation:
    """Source and target of a run, both scored by the target's decoder.

    Raises:
      InputError: if the domains cannot be a source and a target.
    """
    target = run.config.mlsl.target
    if target not in run.pools:
        raise InputError(f"mlsl.target={target} is not one of {', '.join(run.pools)}")
    (source,) = (name for name in run.pools if name != target)
    if len(run.pools[target].labeled):
        raise InputError(
            f"data.labeled_per_domain: {target} is the target, whose labels are not used; set {source}=all,{target}=0"
        )
    if not len(run.pools[source].labeled):
        raise InputError(f"data.labeled_per_domain: {source} is the source, which needs labels; set {source}=all")
    of_source, of_target = (run.pools[d].domain.class_names for d in (source, target))
    if of_source != of_target:
        raise InputError(
            f"data.class_map is empty, but {source} and {target} have different classes; give a class map from "
            f"{source} to {target} (docs/data.md)"
        )
    for name in names(run.config.mlsl.without):
        if name not in of_target:
            raise InputError(f"mlsl.without: {name!r} is not a class of {target}, which has {', '.join(of_target)}")
    pools = {name: dataclasses.replace(pool, scored_by=target) for name, pool in run.pools.items()}
    return Adaptation(dataclasses.replace(run, pools=pools), source, target)


def describe(adaptation: Adaptation) -> str:
    """Lines to print before training: the class map, what cannot be learnt, and how the target is scored."""
    target, name = adaptation.pools(adaptation.target), adaptation.config.data.class_map
    class_map = class_maps.find_class_map(name) if name else None
    lines = [class_maps.table(class_map)] if class_map else []
    if class_map and class_map.unlearnable and class_map.target.name == adaptation.target:
        lines.append(f"{adaptation.source} cannot teach {', '.join(class_map.unlearnable)} of {adaptation.target}")
    splits = [f"{use} ({len(of)} images)" for use, of in (("val", target.val), ("test", target.test)) if len(of)]
    if len(splits) == 2 and target.domain.val_split == target.domain.test_split:
        splits = [f"val and test, the same {len(target.val)} images"]
    scored = f"scored on its {' and '.join(splits)}" if splits else "has no masks in val or test, so it has no score"
    lines.append(f"{adaptation.target} is the target: no label of its {len(target.unlabeled)} images is used; {scored}")
    return "\n".join(lines)


def supervision(config: ConfigDict, image_labels: bool = False, loss: str = "ce") -> Supervision:
    """Loss of labeled images, by the config."""
    weight = config.mlsl.image_weight if image_labels else 0.0
    return Supervision(loss=loss, at=config.mlsl.loss_at, image_weight=weight)


def image_head(config: ConfigDict) -> dict[str, Any]:
    """Arguments of `describe_network` for the image-level head."""
    return {"image_head": config.mlsl.image_head, "image_head_width": config.mlsl.image_head_width}
