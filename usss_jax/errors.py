"""The exception for bad input."""


class InputError(ValueError):
    """Bad input; the message says in one line what is wrong, in which file or field, and what to do.

    Entry points print it without a traceback and exit with code 2. Other exceptions are bugs, except OSError.
    """
