"""All methods and all fields, by name."""

from usss_jax.config import imagenet, mlsl, usss
from usss_jax.config.field import Field, Method
from usss_jax.config.shared import SHARED

METHODS: dict[str, Method] = {"usss": usss.METHOD, "mlsl": mlsl.METHOD, "imagenet": imagenet.METHOD}
FIELDS: dict[str, Field] = SHARED | {name: field for method in METHODS.values() for name, field in method.own.items()}
