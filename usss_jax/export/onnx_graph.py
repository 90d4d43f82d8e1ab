"""A function of images as an ONNX model, by translating its jaxpr equation by equation.

Sizes that JAX knows as symbols become operators on the shape of the input. What depends on parameters alone is computed
here and becomes a constant. Of code for several platforms, that for accelerators is taken: XLA's own convolutions,
which ONNX has, too.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import Literal
from onnx import helper

from usss_jax.export.onnx_nodes import Nodes
from usss_jax.export.onnx_operators import operator
from usss_jax.export.onnx_shapes import Shapes

INLINED = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def to_onnx(function: Callable, images: jax.ShapeDtypeStruct, input_name: str) -> onnx.ModelProto:
    """Translate a function of images, such as `program.bound`, to an ONNX model.

    Args:
      function: maps `images` to a dict of arrays, which become the outputs of these names.
      images: shape [B, H, W, C] and dtype; symbolic sizes are those of `jax.export.symbolic_shape`.
      input_name: of the images.

    Raises:
      NotImplementedError: for a primitive that is not translated (onnx_operators.py).
    """
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(images)
    nodes = Nodes()
    sides = nodes.add("Shape", input_name)
    symbols = {
        str(size): nodes.add("Slice", sides, *(np.array([i], np.int64) for i in (axis, axis + 1)))
        for axis, size in enumerate(images.shape)
        if not isinstance(size, int)
    }
    results = _translate(nodes, Shapes(nodes, symbols), closed.jaxpr, closed.consts, [input_name])
    for name, value in zip(sorted(outputs), results, strict=True):  # JAX sorts the keys of a dict
        nodes.rename(value, name)
    return nodes.model([_declared(input_name, images)], [_declared(name, of) for name, of in outputs.items()])


def _declared(name: str, of: Any) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else str(size) for size in of.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(of.dtype)), sizes)


def _translate(nodes: Nodes, shapes: Shapes, jaxpr: Any, constants, inputs) -> list:
    """Add a jaxpr to the graph; values are names, or arrays as long as they are known. Returns those of its outputs."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(np.asarray, constants), *inputs], strict=True))

    def read(var):
        return np.asarray(var.val, var.aval.dtype) if isinstance(var, Literal) else values[var]

    for eqn in jaxpr.eqns:
        given, name = [read(var) for var in eqn.invars], eqn.primitive.name
        if name == "platform_index":
            results: Any = [eqn.params["platforms"]]
        elif name == "cond" and "branches_platforms" in eqn.params:
            branch = eqn.params["branches"][eqn.params["branches_platforms"].index(None)]
            results = _translate(nodes, shapes, branch.jaxpr, branch.consts, given[1:])
        elif name in INLINED:
            inner = eqn.params[INLINED[name]]
            results = _translate(nodes, shapes, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        elif given and not any(isinstance(value, str) for value in given) and _is_known(eqn):
            results = [np.asarray(eqn.primitive.bind(*given, **eqn.params))]
        else:
            results = [operator(nodes, shapes, eqn, given)]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _is_known(eqn) -> bool:
    """Whether the sizes of the result are numbers."""
    return all(isinstance(size, int) for var in eqn.outvars for size in var.aval.shape)
