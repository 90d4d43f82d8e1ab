"""Where a config file is found, and what is said of one that cannot be used."""

import pathlib

import pytest

from usss_jax.config.files import find_config, read_config, split_argument
from usss_jax.errors import InputError
from usss_jax.experiments.arguments import config_file

OWN = pathlib.Path(__file__).parent.parent / "configs/demo.py"


@pytest.mark.parametrize("path", ["configs/demo.py", "./configs/demo.py"])
def test_own_config_is_found_from_any_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert find_config(path) == config_file("demo") == OWN


def test_file_of_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.py").write_text("")
    assert find_config("configs/demo.py") == config_file("demo") == pathlib.Path("configs/demo.py")


@pytest.mark.parametrize("path", ["configs/dmo.py", "demo.py", "other/configs/demo.py", "configs"])
def test_absent_file_lists_those_there_are(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"there is no {path}; .*configs/cs_cvd.py, .*configs/demo.py") as error:
        find_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("configs/a.py", ("configs/a.py", None)),
        ("configs/a.py:", ("configs/a.py", "")),
        ("configs/a.py:n=1,words:b.py:c", ("configs/a.py", "n=1,words:b.py:c")),
        (r"C:\runs\a.py", (r"C:\runs\a.py", None)),
        (r"C:\runs\a.py:cpu", (r"C:\runs\a.py", "cpu")),
    ],
)
def test_argument_follows_the_file(text, parts):
    assert split_argument(text) == parts


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.py", "def get_config():\n    return None", "get_config must return a ConfigDict"),
        ("a.py", "raise RuntimeError", "cannot be loaded: RuntimeError"),
        ("a.txt", "", "is not a Python file"),
    ],
)
def test_file_that_is_no_config_is_told(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: {told}"):
        read_config(tmp_path / name)
