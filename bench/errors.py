"""The exception that means bad input, and exceptions in one line."""

from __future__ import annotations


class UserError(Exception):
    """Bad input by the user: shown as one line, exit status 2.

    The message names the field, its value, the rule and the fix.
    """


def one_line(error: BaseException, limit: int = 500) -> str:
    """Describe an exception in one line of at most `limit` characters.

    The message alone where it is a `UserError`, else its type and its message.
    """
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:limit]
