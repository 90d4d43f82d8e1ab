"""The examples in docstrings run; those of the Python API, which train, are in api_test.py."""

import doctest
import importlib
import pathlib

import pytest

import usss_jax

PACKAGE = pathlib.Path(usss_jax.__file__).parent
API = {getattr(usss_jax, name).__module__ for name in usss_jax.__all__ if name != "__version__"}


def with_examples():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if name not in API and "\n    >>> " in path.read_text(encoding="utf-8"):
            yield name


@pytest.mark.parametrize("name", list(with_examples()))
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failures, examples = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert examples and not failures
