"""Finds and reads config files."""

import importlib.util
import pathlib

from ml_collections import ConfigDict

from usss_jax.errors import InputError

FOLDER = "configs"


def split_argument(text: str) -> tuple[str, str | None]:
    """Split PATH.py:ARGUMENT at the colon after ".py"; the argument is None if there is no colon.

    >>> split_argument("configs/demo.py:tiny"), split_argument("configs/demo.py")
    (('configs/demo.py', 'tiny'), ('configs/demo.py', None))
    """
    path, ending, rest = text.partition(".py:")
    return (path + ".py", rest) if ending else (text, None)


def find_config(path: str) -> pathlib.Path:
    """Return the path of an existing file, or for configs/NAME.py the project's file of that name.

    Raises:
      InputError: if there is neither; lists the project's files.

    >>> find_config("configs/demo.py").is_file()
    True
    """
    given = pathlib.Path(path).expanduser()
    if given.is_file():
        return given
    package = pathlib.Path(__file__).parent.parent
    installed, in_checkout = package / FOLDER, package.parent / FOLDER
    folder = installed if installed.is_dir() else in_checkout
    if given.parent == pathlib.Path(FOLDER) and (folder / given.name).is_file():
        return folder / given.name
    known = ", ".join(sorted(f"{FOLDER}/{file.name}" for file in folder.glob("*.py")))
    raise InputError(f"there is no {path}; give the path of a config file, or one of usss_jax's: {known}")


def read_named(text: str) -> ConfigDict:
    """Find and read PATH[:ARGUMENT]; raises InputError as `find_config` and `read_config` do.

    >>> read_named("configs/demo.py:tiny").train.steps
    2
    """
    path, argument = split_argument(text)
    return read_config(find_config(path), argument)


def read_config(path: pathlib.Path, argument: str | None = None) -> ConfigDict:
    """Return the config of a file's get_config; raises InputError if the file cannot be run or returns no config."""
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if not spec or not spec.loader:
        raise InputError(f"{path}: is not a Python file; give a config file such as {FOLDER}/demo.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([] if argument is None else [argument]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a config file is code, which may raise anything
        reason = (str(error).strip().splitlines() or [""])[-1].strip()
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config must return a ConfigDict; see {FOLDER}/demo.py")
    return config
