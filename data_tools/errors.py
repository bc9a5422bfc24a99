"""Errors a user can mend: each is one clear line on what is wrong, where, and what to do."""


class InputError(ValueError):
    """What was given cannot be used; the message says what, where, and how to mend it.

    The command line turns it into one line on standard error and exit code 2.
    """
