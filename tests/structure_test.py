"""Imports point one way, and the tree in docs/design.md is the real one."""

import ast
import pathlib
import re

import pytest

REPO = pathlib.Path(__file__).parent.parent
PACKAGE = REPO / "usss_jax"

# What a subpackage may import besides itself and ALL: each line names subpackages of earlier lines only.
ALL = {"errors", "local_files", "packages", "signals"}
SUBPACKAGES = {
    "objectives": set(),
    "config": set(),
    "parallel": set(),
    "models": {"objectives"},
    "data": {"objectives", "config"},
    "evaluation": {"objectives", "models", "parallel", "data"},
    "runs": {"config", "models", "parallel", "data"},
    "inference": {"models", "parallel", "data", "evaluation", "runs"},
    "analysis": {"objectives", "config", "models", "parallel", "data", "evaluation", "runs", "inference"},
    "export": {"models", "data", "runs", "inference"},
    "engine": {"config", "models", "parallel", "data", "runs"},
    "methods": {"objectives", "config", "models", "parallel", "data", "evaluation", "runs", "engine"},
    "experiments": {"config", "data"},
}


def is_command(path):
    """Commands parse flags and call one function of any subpackage."""
    return path.parent == PACKAGE or path.name == "__main__.py"


def imports(path):
    """Names of the package's modules that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "usss_jax":
            base = node.module.removeprefix("usss_jax").lstrip(".")
            found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("usss_jax.") for a in node.names if a.name.startswith("usss_jax.")}
    return found


def test_subpackages_are_in_an_order():
    assert set(SUBPACKAGES) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    before = set()
    for name, below in SUBPACKAGES.items():
        assert below <= before
        before.add(name)


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_imports_point_one_way(name):
    for path in (PACKAGE / name).rglob("*.py"):
        if not is_command(path):
            found = {module.split(".")[0] for module in imports(path)}
            assert found <= SUBPACKAGES[name] | {name, *ALL}, path


def test_no_method_imports_another():
    """What several methods need lies beside them, in methods/ or methods/self_training/."""
    methods = {path.parent.name for path in (PACKAGE / "methods").glob("*/plan.py")}
    assert methods >= {"usss", "mlsl", "imagenet"}
    for name in (*methods, "self_training"):
        for path in (PACKAGE / "methods" / name).glob("*.py"):
            others = {module.split(".")[1] for module in imports(path) if module.startswith("methods.")} & methods
            assert others <= {name}, path


@pytest.mark.parametrize("folder", ["models", "objectives"])
def test_models_and_objectives_need_no_loader_and_no_config(folder):
    """They stay importable on a machine that has jax, flax, optax and orbax alone."""
    for path in (PACKAGE / folder).glob("*.py"):
        text = path.read_text()
        assert not re.search(r"import (grain|ml_collections|clu|absl|cv2)|from (grain|ml_collections|clu|absl)", text)


def test_library_reads_no_flags_and_no_environment():
    for path in PACKAGE.rglob("*.py"):
        if not is_command(path):
            assert not re.search(r"os\.environ|getenv|absl.*flags|FLAGS", path.read_text()), path


def test_records_alone_need_what_the_extra_of_that_name_installs():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "records.py":
            assert not re.search(r"(import|from) (tensorflow_datasets|array_record)", path.read_text()), path
    assert not re.search(r"^(import|from) (tensorflow|array_record)", (PACKAGE / "data/records.py").read_text(), re.M)


def test_tree_of_the_design_page_is_the_real_one():
    block = re.search(r"## The tree\n\n```\n(.*?)```", (REPO / "docs/design.md").read_text(), re.S).group(1)
    named, folder = set(), ""
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parts = folder.split("/")[:depth] if folder else []
        if name.endswith("/"):
            folder = "/".join([*parts, name.rstrip("/")])
            assert (REPO / folder).is_dir(), folder
        else:
            named.add("/".join([*parts, name]))
    real = {str(p.relative_to(REPO)) for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}
    assert named == real


def test_every_public_folder_is_on_the_design_page():
    text = (REPO / "docs/design.md").read_text()
    for folder in ("configs", "benchmarks", "data_prep", "docs", "tests"):
        assert f"{folder}/" in text


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_config_says_its_command(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python -m usss_jax.main --config=configs/{path.name}" in text
