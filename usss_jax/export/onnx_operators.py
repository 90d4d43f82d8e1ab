"""ONNX operators of JAX's primitives, as far as the networks need them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from onnx import helper

from usss_jax.export.onnx_nodes import Nodes
from usss_jax.export.onnx_shapes import Shapes

# Of the same inputs, in the same order.
SAME = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "ceil": "Ceil",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "mul": "Mul",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
UNCHANGED = ("copy", "stop_gradient", "sharding_constraint", "optimization_barrier")
END = np.iinfo(np.int64).max


def operator(nodes: Nodes, shapes: Shapes, eqn: Any, inputs: list) -> Any:
    """Add the operators of an equation of a jaxpr to a graph.

    Args:
      nodes, shapes: of the graph.
      eqn: equation with one output.
      inputs: its inputs, names of values or known arrays.

    Returns:
      Name of the output.

    Raises:
      NotImplementedError: for a primitive, or a case of one, that is not translated.
    """
    name = eqn.primitive.name
    if name in UNCHANGED:
        return inputs[0]
    if name in SAME:
        return nodes.add(SAME[name], *inputs)
    if name not in OTHERS:
        raise NotImplementedError(name)
    return OTHERS[name](nodes, shapes, eqn, *inputs)


def _like(eqn, value: float) -> np.ndarray:
    return np.asarray(value, eqn.invars[0].aval.dtype)


def _integer_pow(nodes, shapes, eqn, x):
    return nodes.add("Pow", x, _like(eqn, eqn.params["y"]))


def _rsqrt(nodes, shapes, eqn, x):
    return nodes.add("Reciprocal", nodes.add("Sqrt", x))


def _erfc(nodes, shapes, eqn, x):
    return nodes.add("Sub", _like(eqn, 1), nodes.add("Erf", x))


def _select(nodes, shapes, eqn, where, otherwise, value):
    return nodes.add("Where", where, value, otherwise)


def _cast(nodes, shapes, eqn, x):
    return nodes.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(jnp.dtype(eqn.params["new_dtype"])))


def _sub(nodes, shapes, eqn, x, y):
    """Less a constant is plus its negative, which onnxruntime merges with a convolution before it."""
    return nodes.add("Sub", x, y) if isinstance(y, str) else nodes.add("Add", x, -y)


def _max(nodes, shapes, eqn, x, y):
    return nodes.add("Max", x, y) if isinstance(y, str) or np.any(y) else nodes.add("Relu", x)


def _min(nodes, shapes, eqn, x, y):
    return nodes.add("Min", x, y) if isinstance(y, str) or y.ndim else nodes.add("Clip", x, "", y)


def _reshape(nodes, shapes, eqn, x):
    """A reshape; pixels that were flattened for `models.convolution.pointwise` get back what they were."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if isinstance(x, str) and nodes.flattened.get(x, (None, None))[1] == after:
        return nodes.flattened[x][0]
    y = nodes.add("Reshape", x, shapes.sizes(after))
    if len(before) == 4 and len(after) == 2 and before[-1] == after[-1]:
        nodes.flattened[y] = (x, before)
    return y


def _broadcast(nodes, shapes, eqn, x, *_):
    given, wanted = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    spread = [1] * len(wanted)
    for size, axis in zip(given, eqn.params["broadcast_dimensions"], strict=True):
        spread[axis] = size
    if len(given) != len(wanted):
        x = nodes.add("Reshape", x, shapes.sizes(spread))
    return x if tuple(spread) == tuple(wanted) else nodes.add("Expand", x, shapes.whole(wanted))


def _transpose(nodes, shapes, eqn, x):
    return nodes.add("Transpose", x, perm=eqn.params["permutation"])


def _concatenate(nodes, shapes, eqn, *parts):
    return nodes.add("Concat", *parts, axis=eqn.params["dimension"])


def _slice(nodes, shapes, eqn, x):
    shape, starts, ends = eqn.invars[0].aval.shape, eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(shape)
    ends = [END if end == size else end for end, size in zip(ends, shape, strict=True)]
    cut = [a for a, of in enumerate(zip(starts, ends, steps, strict=True)) if of != (0, END, 1)]
    if not cut:
        return x
    axes, steps = np.array(cut, np.int64), np.array([steps[a] for a in cut], np.int64)
    return nodes.add("Slice", x, *(shapes.whole([of[a] for a in cut]) for of in (starts, ends)), axes, steps)


def _iota(nodes, shapes, eqn):
    size, *others = eqn.outvars[0].aval.shape
    if others:
        raise NotImplementedError("iota of several axes")
    end = nodes.add("Squeeze", shapes.size(size), np.array([0], np.int64))
    values = nodes.add("Range", np.array(0, np.int64), end, np.array(1, np.int64))
    return nodes.add("Cast", values, to=helper.np_dtype_to_tensor_dtype(jnp.dtype(eqn.params["dtype"])))


def _dim_as_value(nodes, shapes, eqn):
    size = nodes.add("Squeeze", shapes.size(eqn.params["dim"]), np.array([0], np.int64))
    return nodes.add("Cast", size, to=helper.np_dtype_to_tensor_dtype(eqn.outvars[0].aval.dtype))


def _reduce(name: str) -> Callable:
    def reduce(nodes, shapes, eqn, x):
        return nodes.add(name, x, np.array(eqn.params["axes"], np.int64), keepdims=0)

    return reduce


def _dot(nodes, shapes, eqn, x, y):
    """The axes of the result: of both, of `x` alone, of `y` alone, each in their order."""
    (sum_x, sum_y), (both_x, both_y) = eqn.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in eqn.invars]
    if ranks[1] == 2 and sum_x == (ranks[0] - 1,) and sum_y == (0,):
        flattened = isinstance(x, str) and x in nodes.flattened and not isinstance(y, str)
        return _pointwise(nodes, x, y) if flattened else nodes.add("MatMul", x, y)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_x = [next(letters) for _ in range(ranks[0])]
    shared = dict(zip((*both_y, *sum_y), (of_x[a] for a in (*both_x, *sum_x)), strict=True))
    of_y = [shared[a] if a in shared else next(letters) for a in range(ranks[1])]
    result = [of_x[a] for a in both_x] + [c for a, c in enumerate(of_x) if a not in (*both_x, *sum_x)]
    result += [c for a, c in enumerate(of_y) if a not in shared]
    return nodes.add("Einsum", x, y, equation=f"{''.join(of_x)},{''.join(of_y)}->{''.join(result)}")


def _pointwise(nodes, x, kernel):
    """A product of flattened pixels as a convolution, which onnxruntime merges with the norm and the ReLU after it."""
    pixels, shape = nodes.flattened[x]
    y = nodes.add("Conv", _permuted(nodes, pixels, (0, 3, 1, 2)), kernel.T[:, :, None, None])
    y = _permuted(nodes, y, (0, 2, 3, 1))
    flat = nodes.add("Reshape", y, np.array([-1, kernel.shape[1]], np.int64))
    nodes.flattened[flat] = (y, (*shape[:3], kernel.shape[1]))
    return flat


def _convolution(nodes, shapes, eqn, x, kernel):
    of = eqn.params
    if set(of["lhs_dilation"]) != {1} or of["batch_group_count"] != 1:
        raise NotImplementedError("transposed convolution")
    numbers = of["dimension_numbers"]
    kernel = _permuted(nodes, kernel, numbers.rhs_spec)
    y = nodes.add(
        "Conv",
        _permuted(nodes, x, numbers.lhs_spec),
        kernel,
        strides=of["window_strides"],
        dilations=of["rhs_dilation"],
        pads=[zeros[end] for end in (0, 1) for zeros in of["padding"]],
        group=of["feature_group_count"],
    )
    return _permuted(nodes, y, np.argsort(numbers.out_spec).tolist())


def _permuted(nodes, value, axes):
    if isinstance(value, str):
        return nodes.add("Transpose", value, perm=axes)
    return np.ascontiguousarray(np.transpose(value, axes))


OTHERS: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dim_as_value": _dim_as_value,
    "dot_general": _dot,
    "erfc": _erfc,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "max": _max,
    "min": _min,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "square": lambda nodes, shapes, eqn, x: nodes.add("Mul", x, x),
    "squeeze": _reshape,
    "sub": _sub,
    "transpose": _transpose,
}
