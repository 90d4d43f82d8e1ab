"""SGD as PyTorch does it, with the poly schedule of the paper (appendix A)."""

from collections.abc import Callable

import jax
import optax

from usss_jax.config import PAPER_BATCH


def learning_rate(lr: float, rule: str, batch_size: int) -> tuple[float, str]:
    """Learning rate by the config's `lr_rule`, and the line that says so.

    "fixed": as given. "linear": times batch_size / PAPER_BATCH (Goyal et al., 2017).
    """
    if rule == "linear":
        scaled = lr * batch_size / PAPER_BATCH
        return scaled, f"lr {scaled:g}: lr={lr:g} times batch_size {batch_size} / {PAPER_BATCH} (lr_rule=linear)"
    if batch_size == PAPER_BATCH:
        return lr, f"lr {lr:g} (lr_rule=fixed)"
    return (
        lr,
        f"lr {lr:g}: as given, though batch_size {batch_size} is not the paper's {PAPER_BATCH} (lr_rule=fixed)",
    )


def poly_schedule(lr: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """lr * (1 - step / steps) ** power; the paper steps it once per epoch, here every step."""
    return optax.polynomial_schedule(init_value=lr, end_value=0.0, power=power, transition_steps=steps)


def create_optimizer(
    lr: float,
    steps: int,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    power: float = 0.9,
    embedding_lr_scale: float = 1.0,
    trained: Callable[[str], bool] | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum; the decay is added to the gradient of every parameter before the momentum, as in PyTorch.

    `embedding_lr_scale` multiplies the learning rate of the entropy module's map E. `trained` says which parts of the
    model (its top-level names: encoder, decoder_DOMAIN, embedding) change at all, None: all; the others do not decay
    either.
    """
    sgd = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(poly_schedule(lr, steps, power), momentum=momentum),
    )
    if embedding_lr_scale != 1:
        sgd = optax.chain(sgd, optax.masked(optax.scale(embedding_lr_scale), _parts(lambda name: name == "embedding")))
    if trained is None:
        return sgd
    others = _parts(lambda name: not trained(name))
    return optax.chain(optax.masked(sgd, _parts(trained)), optax.masked(optax.set_to_zero(), others))


def _parts(chosen: Callable[[str], bool]):
    """Mask of the leaves below the chosen top-level names."""

    def mask(params):
        def below(name, part):
            return jax.tree.map(lambda _: chosen(name), part)

        return {name: below(name, part) for name, part in params.items()}

    return mask
