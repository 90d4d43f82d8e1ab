"""Gradients of kernels that every device of a mesh adds up by itself, to be exchanged once.

XLA sums the gradient of a kernel over the devices in every backward pass. Of several passes in one step, micro-batch by
micro-batch, that exchanges the same bytes again and again. A kernel that has a `DeviceSums` beside it in the parameters
gets no gradient of its own; each device's part goes there, and the sum over devices is left to the end of the step.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = PartitionSpec("data")


@flax.struct.dataclass
class DeviceSums:
    """Place for the gradient of one kernel, [devices, *kernel.shape], a part on each device of the mesh."""

    value: jax.Array
    mesh: Mesh = flax.struct.field(pytree_node=False)


def with_sums(params: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Parameters with a `DeviceSums` of zeros beside every kernel, to differentiate by."""
    out: dict[str, Any] = {name: with_sums(of, mesh) if isinstance(of, Mapping) else of for name, of in params.items()}
    if (kernel := out.get("kernel")) is not None:
        zeros = jnp.zeros((mesh.size, *kernel.shape), kernel.dtype)
        out["sums"] = DeviceSums(jax.lax.with_sharding_constraint(zeros, NamedSharding(mesh, AXIS)), mesh)
    return out


def summed(gradients: Mapping[str, Any]) -> dict[str, Any]:
    """Gradients of the parameters alone: every device's part is added up here."""
    out = {name: summed(of) if isinstance(of, Mapping) else of for name, of in gradients.items() if name != "sums"}
    if "sums" in gradients:
        out["kernel"] = out["kernel"] + gradients["sums"].value.sum(0)
    return out


def apply_kernel(module: nn.Module, function: Callable, x, kernel):
    """function(x, kernel) for the kernel of a layer, whose gradient goes to its `DeviceSums` where there is one.

    Args:
      module: the layer.
      function: of examples [B, ...] and kernel, an example at a time.
      x: examples; the devices hold equal parts of them.
      kernel: parameter "kernel" of the layer, in whatever dtype.
    """
    if not module.has_variable("params", "sums"):
        return function(x, kernel)
    sums: DeviceSums = module.get_variable("params", "sums")

    @jax.custom_vjp
    def apply(x, kernel, value):
        return function(x, kernel)

    def forward(x, kernel, value):
        return function(x, kernel), (x, kernel)

    def of_kernel(x, kernel, gradient):
        return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](gradient)[0][None].astype(sums.value.dtype)

    def backward(kept, gradient):
        x, kernel = kept
        (of_x,) = jax.vjp(lambda x: function(x, kernel), x)[1](gradient)
        on_each = jax.shard_map(
            of_kernel,
            mesh=sums.mesh,
            in_specs=(AXIS, PartitionSpec(), AXIS),
            out_specs=AXIS,
            check_vma=False,  # or JAX would exchange the gradient of the kernel, which all devices have, here
        )
        return of_x, jnp.zeros_like(kernel), on_each(x, kernel, gradient)

    apply.defvjp(forward, backward)
    return apply(x, kernel, sums.value)
