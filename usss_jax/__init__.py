"""One semantic segmentation model across several image domains with different label spaces, in JAX.

    import usss_jax

    usss_jax.train("configs/demo.py", "runs/demo")
    predictor = usss_jax.load("runs/demo/full")
    labels = predictor.predict(image, domain="city_street")

Importing the package imports neither JAX nor the data libraries; using a function imports what it needs.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usss_jax.data.domains import get_domain
    from usss_jax.inference.encoder import encoder
    from usss_jax.inference.predictor import load
    from usss_jax.inference.scores import evaluate
    from usss_jax.methods.train import train
    from usss_jax.models.universal import create_model

__all__ = ["__version__", "create_model", "encoder", "evaluate", "get_domain", "load", "train"]
__version__ = "0.1.0"

_MODULES = {
    "create_model": "usss_jax.models.universal",
    "encoder": "usss_jax.inference.encoder",
    "evaluate": "usss_jax.inference.scores",
    "get_domain": "usss_jax.data.domains",
    "load": "usss_jax.inference.predictor",
    "train": "usss_jax.methods.train",
}


def __getattr__(name: str):
    """Import a public function on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'usss_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
