"""Kernel gradients that every device of a mesh accumulates locally, so that they are exchanged once per step.

XLA sums the gradient of a kernel over the devices in every backward pass, that is once per micro-batch. A kernel with a
sibling `DeviceSums` in the parameters gets a zero gradient instead: the part of each device goes into the `DeviceSums`,
and `summed` adds the parts up at the end of the step.
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
    """Gradient of one kernel as [devices, *kernel.shape], the part of each device on that device."""

    value: jax.Array
    mesh: Mesh = flax.struct.field(pytree_node=False)


def with_sums(params: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Add a `DeviceSums` of zeros next to every kernel of the parameters."""
    out: dict[str, Any] = {name: with_sums(of, mesh) if isinstance(of, Mapping) else of for name, of in params.items()}
    if (kernel := out.get("kernel")) is not None:
        zeros = jnp.zeros((mesh.size, *kernel.shape), kernel.dtype)
        out["sums"] = DeviceSums(jax.lax.with_sharding_constraint(zeros, NamedSharding(mesh, AXIS)), mesh)
    return out


def summed(gradients: Mapping[str, Any]) -> dict[str, Any]:
    """Add the parts of all devices to the gradients of the kernels, and remove the `DeviceSums`."""
    out = {name: summed(of) if isinstance(of, Mapping) else of for name, of in gradients.items() if name != "sums"}
    if "sums" in gradients:
        out["kernel"] = out["kernel"] + gradients["sums"].value.sum(0)
    return out


def apply_kernel(module: nn.Module, function: Callable, x, kernel):
    """Return function(x, kernel), with the gradient of the kernel going to the layer's `DeviceSums` if it has one.

    Args:
      module: the layer.
      function: (examples [B, ...], kernel) -> values; it must treat examples independently.
      x: examples, split equally over the devices.
      kernel: parameter "kernel" of the layer, in any dtype.
    """
    if not module.has_variable("params", "sums"):
        return function(x, kernel)
    sums: DeviceSums = module.get_variable("params", "sums")

    @jax.custom_vjp
    def apply(x, kernel, value):
        return function(x, kernel)

    def forward(x, kernel, value):
        return function(x, kernel), (x, kernel)

    def kernel_gradient(x, kernel, gradient):
        return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](gradient)[0][None].astype(sums.value.dtype)

    def backward(residuals, gradient):
        x, kernel = residuals
        (x_gradient,) = jax.vjp(lambda x: function(x, kernel), x)[1](gradient)
        on_each = jax.shard_map(
            kernel_gradient,
            mesh=sums.mesh,
            in_specs=(AXIS, PartitionSpec(), AXIS),
            out_specs=AXIS,
            check_vma=False,  # or JAX would sum the gradient over the devices here
        )
        return x_gradient, jnp.zeros_like(kernel), on_each(x, kernel, gradient)

    apply.defvjp(forward, backward)
    return apply(x, kernel, sums.value)
