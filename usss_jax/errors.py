"""The exceptions for bad input and for trainings that diverge."""


class InputError(ValueError):
    """Bad input; the message says in one line what is wrong, in which file or field, and what to do.

    Entry points print it without a traceback and exit with `code`. Other exceptions are bugs, except OSError.
    """

    code = 2


class Diverged(InputError):
    """A training whose loss, gradients or weights are not finite; the message says how to go on."""

    code = 3
