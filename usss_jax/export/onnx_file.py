"""A network as an ONNX file for images of any size, in float32."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from usss_jax.errors import InputError
from usss_jax.export.program import IMAGE, any_images, bound
from usss_jax.inference.predictor import Predictor
from usss_jax.local_files import write_whole
from usss_jax.runs.networks import build_network

FILE = "model.onnx"


def write_onnx(predictor: Predictor, domains: Sequence[str], out: pathlib.Path) -> Callable:
    """Write the network, and return what was written as a function of images, run by onnxruntime.

    Raises:
      InputError: if the packages of the extra `onnx` are not installed, or the network computes what this export cannot
        translate.
    """
    try:
        import onnxruntime

        from usss_jax.export.onnx_graph import to_onnx
    except ImportError as e:
        missing = (e.name or str(e)).split(".")[0]
        raise InputError(f"--format=onnx needs {missing}: pip install 'usss_jax[onnx]'") from e
    # onnxruntime has no convolutions in bfloat16 on CPU.
    model = build_network({**predictor.network, "precision": "float32"})
    try:
        content = to_onnx(bound(predictor, model, domains), any_images(model), IMAGE)
    except NotImplementedError as e:
        text = f"--format=onnx: this network computes what the export does not translate ({e}); use --format=stablehlo"
        raise InputError(text) from e
    write_whole(out / FILE, content.SerializeToString())
    session = onnxruntime.InferenceSession(out / FILE, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {IMAGE: np.asarray(images)}), strict=True))
