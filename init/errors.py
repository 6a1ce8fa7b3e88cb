"""What can go wrong, each as one sentence for the user, with the exit code that goes with it."""

from __future__ import annotations


class InitError(Exception):
    """A run that failed and changed nothing; the text is one sentence."""

    exit_code = 1


class UsageError(InitError):
    """A command line that cannot be understood."""

    exit_code = 255


class ValidationError(InitError):
    """The rules are not in force (the code that repair controllers look for)."""

    exit_code = 126
