"""What the entry points share: the config flag, and one line and exit code 2 for bad input."""

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
    "Folder that keeps compiled programs for the next start; empty: none. JAX_COMPILATION_CACHE_DIR is heeded too.",
)
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, for instance configs/demo.py[:argument].")


class ConfigParser(flags.ArgumentParser):
    """Finds the project's own config files from any folder; ml_collections' parser knows the current one alone."""

    def parse(self, argument: str) -> ConfigDict:
        """Read the file of PATH[:argument]; raises InputError if it is not there or cannot be read."""
        return read_named(argument).lock()


flags.FLAGS["config"].parser = ConfigParser()


def start_jax():
    """See to it that JAX has a device, and let it keep compiled programs in --compilation_cache.

    Raises:
      InputError: if there is no device of the platform that was asked for, or if a folder for compiled programs that
        was asked for is unusable.
    """
    import jax  # after the flags: a typo should not wait for JAX
    from jax.extend.backend import clear_backends

    asked = jax.config.jax_platforms
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as e:  # the latter if it knows the name, and has no plugin for it
        if not asked:
            raise
        why = f" ({reason(e)})" if isinstance(e, RuntimeError) else ""
        jax.config.update("jax_platforms", None)
        clear_backends()
        there = jax.default_backend()
        remedy = f"set it to {there}, or unset it"
        raise InputError(f"JAX_PLATFORMS={asked}: JAX finds no such device here{why}; {remedy}") from e
    keep_compiled()


def keep_compiled():
    """Let JAX keep compiled programs in --compilation_cache; InputError if a folder that was asked for is unusable."""
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
            print(f"compiled programs are not kept: {line_of(e) if isinstance(e, OSError) else e}")
        elif isinstance(e, OSError):
            raise InputError(
                f"--compilation_cache={COMPILED.value}: {e.strerror}; give another folder, or --compilation_cache= "
                "to keep none"
            ) from e
        else:
            raise
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def folder_of(flag: flags.FlagHolder) -> pathlib.Path:
    """Path that a flag gives; InputError for a URL or an unknown home folder."""
    return local_path(str(flag.value), f"--{flag.name}")


def parse_flags(argv: list[str]) -> list[str]:
    """Parse flags; a wrong one becomes an InputError (absl and ml_collections would exit with 1 and a traceback)."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        if isinstance(e.__context__, InputError):  # of the config file
            raise InputError(f"--config: {e.__context__}") from e
        raise InputError(str(e).strip().splitlines()[-1]) from e
    except (AttributeError, KeyError) as e:  # ml_collections, for a field that the config does not have
        given = [m[1] for word in argv if (m := re.match(r"--?(?:no)?config\.([\w.]+)", word))]
        if wrong := [name for name in given if name not in FIELDS]:
            raise InputError(f"--config.{wrong[0]}: {no_such_field(wrong[0], FIELDS)}") from e
        if lacking := [name for name in given if any(repr(part) in str(e) for part in name.split("."))]:
            raise InputError(f"--config.{lacking[0]}: configs of this method have no such field") from e
        raise


def run(
    main: Callable[[list[str]], int | None],
    argv: list[str] | None = None,
    ended: str = "told to end",
    before: Callable[[int], None] | None = None,
):
    """Parse the flags, exit with what `main` returns; bad input is one line on stderr and exit code 2.

    So are files that cannot be read or written. Ctrl-C and SIGTERM end with the line `ended` (signals.py, which calls
    `before`) and exit code 130 and 143; inside a training loop after a checkpoint was saved.
    """
    logging.set_verbosity(logging.WARNING)
    quieten_orbax()
    for stream in (sys.stdout, sys.stderr):  # a console of another encoding shows escapes, and nothing is lost
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signals.end_in_one_line(f"usss_jax: {ended}", before)
    try:
        app.run(main, argv=argv, flags_parser=parse_flags)
    except InputError as e:
        stop(f"error: {e}", 2)
    except signals.Ended as e:
        stop(str(e), e.code)
    except OSError as e:
        stop(f"error: {line_of(e)}", 2)


def quieten_orbax():
    """Show nothing of what Orbax and TensorStore tell at length, in threads, of errors that reach the caller too."""
    logging.get_absl_logger().addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    getLogger("asyncio").setLevel(CRITICAL)

    def show(unraisable):  # TensorStore comes here if what waited for it is gone
        if str(unraisable.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = show


def stop(text: str, code: int):
    """Exit with one line on stderr."""
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more, or its disk is full: not to be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        print("usss_jax: " + "\\n".join(text.splitlines()), file=sys.stderr, flush=True)
    sys.exit(code)
