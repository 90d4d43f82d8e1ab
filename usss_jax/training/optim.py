"""SGD as PyTorch does it, with the poly schedule of the paper (appendix A)."""

import jax
import optax


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
) -> optax.GradientTransformation:
    """SGD with momentum; the decay is added to the gradient of every parameter before the momentum, as in PyTorch.

    `embedding_lr_scale` multiplies the learning rate of the entropy module's map E.
    """
    sgd = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(poly_schedule(lr, steps, power), momentum=momentum),
    )
    if embedding_lr_scale == 1:
        return sgd
    return optax.chain(sgd, optax.masked(optax.scale(embedding_lr_scale), _is_embedding))


def _is_embedding(params):
    return {name: jax.tree.map(lambda _, is_it=name == "embedding": is_it, part) for name, part in params.items()}
