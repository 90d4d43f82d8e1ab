"""The one exception for bad input of the user."""


class InputError(ValueError):
    """Bad input; the message is one line: what is wrong, in which file or field, what to do.

    Entry points print it without a traceback and exit with code 2. Whatever else is raised is a bug of ours.
    """
