"""SGD as PyTorch does it, with the poly schedule of the paper (appendix A)."""

import optax


def poly_schedule(lr: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """lr * (1 - step / steps) ** power; the paper steps it once per epoch, here every step."""
    return optax.polynomial_schedule(init_value=lr, end_value=0.0, power=power, transition_steps=steps)


def create_optimizer(
    lr: float, steps: int, *, momentum: float = 0.9, weight_decay: float = 1e-4, power: float = 0.9
) -> optax.GradientTransformation:
    """SGD with momentum; the decay is added to the gradient of every parameter before the momentum, as in PyTorch."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(poly_schedule(lr, steps, power), momentum=momentum),
    )
