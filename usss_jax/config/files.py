"""Config files: where they are found, and what they return."""

import importlib.util
import pathlib

from ml_collections import ConfigDict

from usss_jax.errors import InputError

FOLDER = "configs"


def split_argument(text: str) -> tuple[str, str | None]:
    """Split NAME.py:argument; None without one. The colon of a Windows drive is no argument's."""
    path, ending, rest = text.partition(".py:")
    return (path + ".py", rest) if ending else (text, None)


def find_config(path: str) -> pathlib.Path:
    """Return an existing file as it is, and for any other configs/NAME.py the project's own file of that name.

    Raises InputError, which lists the project's own files, if there is neither.
    """
    given = pathlib.Path(path).expanduser()
    if given.is_file():
        return given
    package = pathlib.Path(__file__).parent.parent
    installed, in_checkout = package / FOLDER, package.parent / FOLDER
    own = installed if installed.is_dir() else in_checkout
    if given.parent == pathlib.Path(FOLDER) and (own / given.name).is_file():
        return own / given.name
    known = ", ".join(sorted(f"{FOLDER}/{file.name}" for file in own.glob("*.py")))
    raise InputError(f"there is no {path}; give the path of a config file, or one of usss_jax's: {known}")


def read_named(text: str) -> ConfigDict:
    """Read PATH[:argument], as `find_config` finds it; InputError if it is not there or cannot be read."""
    path, argument = split_argument(text)
    return read_config(find_config(path), argument)


def read_config(path: pathlib.Path, argument: str | None = None) -> ConfigDict:
    """Run a config file and return what its get_config returns; InputError if that cannot be done."""
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if not spec or not spec.loader:
        raise InputError(f"{path}: is no Python file; give a config file such as {FOLDER}/demo.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([] if argument is None else [argument]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # whatever the file, which is code, raises
        reason = (str(error).strip().splitlines() or [""])[-1].strip()
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config returns no ConfigDict; see {FOLDER}/demo.py")
    return config
