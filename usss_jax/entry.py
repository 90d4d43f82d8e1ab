"""What the entry points share: the config flag, and one line and exit code 2 for bad input."""

import difflib
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from usss_jax.config import default_config
from usss_jax.config_files import find_config, read_config, split_argument
from usss_jax.errors import InputError

COMPILED = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/usss_jax/compiled",
    "Folder that keeps compiled programs for the next start; empty: none. JAX_COMPILATION_CACHE_DIR is heeded too.",
)
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, for instance configs/demo.py[:argument].")


class ConfigParser(flags.ArgumentParser):
    """Finds the project's own config files from any folder; ml_collections' parser knows the current one alone."""

    def parse(self, argument: str) -> ConfigDict:
        """Read the file of PATH[:argument]; raises InputError if it is not there or cannot be read."""
        path, given = split_argument(argument)
        return read_config(find_config(path), given).lock()


flags.FLAGS["config"].parser = ConfigParser()


def keep_compiled():
    """Let JAX keep compiled programs in --compilation_cache; InputError if a folder that was asked for is unusable."""
    import jax  # after the flags: a typo should not wait for JAX

    asked = flags.FLAGS["compilation_cache"].present
    if not COMPILED.value or (jax.config.jax_compilation_cache_dir and not asked):
        return
    folder = pathlib.Path(COMPILED.value).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        if asked:
            raise InputError(
                f"--compilation_cache={COMPILED.value}: {e.strerror}; give another folder, or nothing to keep none"
            ) from e
        print(f"compiled programs are not kept: {folder}: {e.strerror}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def parse_flags(
    argv: list[str], known: Callable[[], ConfigDict] = default_config, example: str = "configs/demo.py"
) -> list[str]:
    """Parse flags; a wrong one becomes an InputError (absl and ml_collections would exit with 1 and a traceback).

    `known` gives a config with all fields that there are, `example` is a file with such a config.
    """
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        if isinstance(e.__context__, InputError):  # of the config file
            raise InputError(f"--config: {e.__context__}") from e
        raise InputError(str(e).strip().splitlines()[-1]) from e
    except (AttributeError, KeyError) as e:  # ml_collections, for a field that the config does not have
        fields = [m[1] for word in argv if (m := re.match(r"--?(?:no)?config\.([\w.]+)", word))]
        wrong = [field for field in fields if field not in known()]
        lacking = [field for field in fields if repr(field) in str(e)]
        if not wrong and lacking:
            raise InputError(
                f"--config: has no field {lacking[0]!r}, it is for another command; give one such as {example}"
            ) from e
        if not wrong:
            raise
        close = difflib.get_close_matches(wrong[0], known(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known())}"
        raise InputError(f"--config.{wrong[0]}: the config has no such field; {hint}") from e


def run(
    main: Callable[[list[str]], int | None],
    argv: list[str] | None = None,
    known: Callable[[], ConfigDict] = default_config,
    example: str = "configs/demo.py",
):
    """Parse the flags, exit with what `main` returns; bad input is one line on stderr and exit code 2."""
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(main, argv=argv, flags_parser=partial(parse_flags, known=known, example=example))
    except InputError as e:
        sys.stdout.flush()
        print(f"usss_jax: error: {e}", file=sys.stderr, flush=True)
        sys.exit(2)
