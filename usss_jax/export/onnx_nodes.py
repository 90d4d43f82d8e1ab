"""Nodes and constants of an ONNX graph."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 10  # of the file format; a newer one than this opset needs would shut out older runtimes


class Nodes:
    """A growing ONNX graph. Values are known arrays until a node needs them, and names of the graph's values after.

    Attributes:
      flattened: of pixels [n, C], the value [B, H, W, C] that they come from, and its shape.
    """

    def __init__(self) -> None:
        self.flattened: dict[str, tuple[str, tuple]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple, tuple[str, np.ndarray]] = {}

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        name, names = f"/{operator.lower()}_{len(self._nodes)}", [self.name(value) for value in inputs]
        self._nodes.append(helper.make_node(operator, names, [name], name, **attributes))
        return name

    def name(self, value: str | np.ndarray) -> str:
        """Name of a value; a known array becomes a constant of the graph, equal small ones the same; "": none."""
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes() if array.size < 64 else id(value))
        return self._constants.setdefault(key, (f"/constant_{len(self._constants)}", array))[0]

    def rename(self, value: str | np.ndarray, name: str):
        """Give a value the name of an output of the graph."""
        self._nodes.append(helper.make_node("Identity", [self.name(value)], [name], name))

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The finished model, without nodes whose values nothing uses."""
        used, nodes = {output.name for output in outputs}, []
        for node in reversed(self._nodes):
            if used & set(node.output):
                used |= set(node.input)
                nodes.append(node)
        constants = [numpy_helper.from_array(array, name) for name, array in self._constants.values() if name in used]
        graph = helper.make_graph(nodes[::-1], "usss_jax", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="usss_jax")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model
