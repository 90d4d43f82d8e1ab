"""Sizes of arrays in an ONNX graph: JAX's symbolic dimensions as operators on the shape of the input."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from usss_jax.export.onnx_nodes import Nodes

OPERATORS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
FUNCTIONS = {"max": "Max", "min": "Min"}


class Shapes:
    """Writes sizes, such as floordiv(height - 1, 2) + 1, into a graph, each once.

    Attributes:
      nodes: the graph.
      symbols: names of int64 [1] values, by the symbol.
    """

    def __init__(self, nodes: Nodes, symbols: Mapping[str, str]):
        self.nodes, self._known = nodes, dict(symbols)

    def size(self, size: Any) -> str | np.ndarray:
        """A size, int or symbolic, as int64 [1]: a constant, or the name of a value."""
        if isinstance(size, int):
            return np.array([size], np.int64)
        text = str(size).replace("^", "**")  # the syntax of jax.export.symbolic_shape, else that of Python
        if text not in self._known:
            self._known[text] = self._evaluate(ast.parse(text, mode="eval").body)
        return self._known[text]

    def sizes(self, shape: Sequence) -> str | np.ndarray:
        """A shape as int64 [axes] for Reshape: a symbolic size that is the only one is -1."""
        symbolic = [size for size in shape if not isinstance(size, int)]
        if len(symbolic) <= 1:
            return np.array([size if isinstance(size, int) else -1 for size in shape], np.int64)
        return self.whole(shape)

    def whole(self, shape: Sequence) -> str | np.ndarray:
        """A shape as int64 [axes]."""
        if all(isinstance(size, int) for size in shape):
            return np.array(shape, np.int64)
        return self.nodes.add("Concat", *map(self.size, shape), axis=0)

    def _evaluate(self, node) -> Any:
        match node:
            case ast.Constant(value=int(value)):
                return np.array([value], np.int64)
            case ast.Name(id=name):
                return self._known[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.nodes.add("Neg", self._evaluate(operand))
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))):
                return self.nodes.add("Pow", self._evaluate(left), np.array([power], np.int64))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return self.nodes.add(OPERATORS[type(op)], self._evaluate(left), self._evaluate(right))
            case ast.Call(func=ast.Name(id="floordiv"), args=[left, right]):
                return self._floordiv(self._evaluate(left), self._evaluate(right))
            case ast.Call(func=ast.Name(id="mod"), args=[left, right]):  # the sign of the divisor, as in Python
                return self.nodes.add("Mod", self._evaluate(left), self._evaluate(right))
            case ast.Call(func=ast.Name(id=name), args=[left, right]) if name in FUNCTIONS:
                return self.nodes.add(FUNCTIONS[name], self._evaluate(left), self._evaluate(right))
        raise NotImplementedError(f"size {ast.unparse(node)}")

    def _floordiv(self, left, right):
        """Division rounded down; that of ONNX rounds towards 0, which differs below 0."""
        exact = self.nodes.add("Sub", left, self.nodes.add("Mod", left, right))
        return self.nodes.add("Div", exact, right)
