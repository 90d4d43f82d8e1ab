"""Common parts of the entry points: flags, start of JAX, and one line with exit code 2 for bad input."""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from logging import CRITICAL, getLogger

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from usss_jax import signals
from usss_jax.config import FIELDS, no_such_field
from usss_jax.config.files import read_named
from usss_jax.errors import InputError
from usss_jax.local_files import line_of, local_path, reason

COMPILED = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/usss_jax/compiled",
    "Folder for compiled programs, reused by later starts; empty: none. JAX_COMPILATION_CACHE_DIR works, too.",
)
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, for instance configs/demo.py[:argument].")


class ConfigParser(flags.ArgumentParser):
    """Finds the project's config files from any folder, unlike the parser of ml_collections."""

    def parse(self, argument: str) -> ConfigDict:
        """Read the config of PATH[:argument]; raises InputError if that fails."""
        return read_named(argument).lock()


flags.FLAGS["config"].parser = ConfigParser()


def start_jax():
    """Check that JAX has a device, and enable --compilation_cache.

    Raises:
      InputError: if JAX_PLATFORMS names a platform without a device, or as `keep_compiled` does.
    """
    import jax  # after the flags: a typo should not wait for JAX
    from jax.extend.backend import clear_backends

    asked = jax.config.jax_platforms
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as e:  # the latter for a known platform without a plugin
        if not asked:
            raise
        why = f" ({reason(e)})" if isinstance(e, RuntimeError) else ""
        jax.config.update("jax_platforms", None)
        clear_backends()
        remedy = f"set it to {jax.default_backend()}, or unset it"
        raise InputError(f"JAX_PLATFORMS={asked}: JAX finds no such device{why}; {remedy}") from e
    keep_compiled()


def keep_compiled():
    """Make JAX cache compiled programs in --compilation_cache.

    Raises:
      InputError: if the flag is given and its folder is unusable; for the default folder a line is printed.
    """
    import jax

    asked = flags.FLAGS["compilation_cache"].present
    if not COMPILED.value or (jax.config.jax_compilation_cache_dir and not asked):
        return
    try:
        folder = local_path(COMPILED.value, "--compilation_cache")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, InputError) as e:
        if not asked:
            print(f"compiled programs are not cached: {line_of(e) if isinstance(e, OSError) else e}")
        elif isinstance(e, OSError):
            raise InputError(
                f"--compilation_cache={COMPILED.value}: {e.strerror}; give another folder, or --compilation_cache= "
                "for no cache"
            ) from e
        else:
            raise
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def folder_of(flag: flags.FlagHolder) -> pathlib.Path:
    """Path given by a flag; raises InputError for a URL or an unknown home folder."""
    return local_path(str(flag.value), f"--{flag.name}")


def parse_flags(argv: list[str]) -> list[str]:
    """Parse flags; raises InputError for a wrong one, where absl and ml_collections would print a traceback."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        if isinstance(e.__context__, InputError):  # from the config file
            raise InputError(f"--config: {e.__context__}") from e
        raise InputError(str(e).strip().splitlines()[-1]) from e
    except (AttributeError, KeyError) as e:  # from ml_collections, for an unknown field
        given = [m[1] for word in argv if (m := re.match(r"--?(?:no)?config\.([\w.]+)", word))]
        if wrong := [name for name in given if name not in FIELDS]:
            raise InputError(f"--config.{wrong[0]}: {no_such_field(wrong[0], FIELDS)}") from e
        if lacking := [name for name in given if any(repr(part) in str(e) for part in name.split("."))]:
            raise InputError(f"--config.{lacking[0]}: configs of this method have no such field") from e
        raise


def run(
    main: Callable[[list[str]], int | None],
    argv: list[str] | None = None,
    ended: str = "interrupted",
    before: Callable[[int], None] | None = None,
):
    """Parse the flags, call `main`, and exit with its result.

    InputError and OSError become one line on stderr and exit code 2, or 3 for Diverged. Ctrl-C and SIGTERM end the
    process with the line `ended` and exit code 130 or 143, after calling `before` with it (signals.py); a training loop
    first saves a checkpoint.
    """
    logging.set_verbosity(logging.WARNING)
    quieten_orbax()
    for stream in (sys.stdout, sys.stderr):  # characters that the console cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signals.end_in_one_line(f"usss_jax: {ended}", before)
    try:
        app.run(main, argv=argv, flags_parser=parse_flags)
    except InputError as e:
        stop(f"error: {e}", e.code)
    except signals.Ended as e:
        stop(str(e), e.code)
    except OSError as e:
        stop(f"error: {line_of(e)}", 2)


def quieten_orbax():
    """Hide the log messages of Orbax and TensorStore about errors that also reach the caller."""
    logging.get_absl_logger().addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    getLogger("asyncio").setLevel(CRITICAL)

    def show(unraisable):  # called by TensorStore if its event loop is gone
        if str(unraisable.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = show


def stop(text: str, code: int):
    """Print one line to stderr and exit."""
    try:
        sys.stdout.flush()
    except OSError:  # closed pipe or full disk: Python must not flush again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        print("usss_jax: " + "\\n".join(text.splitlines()), file=sys.stderr, flush=True)
    sys.exit(code)
