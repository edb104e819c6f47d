"""The exception that means bad input, and exceptions in one line."""

from __future__ import annotations

import sys

SHOWN = 60  # characters of a value in a message
# How a plug-in may fail: also by `sys.exit`, which is no Exception and would end the whole command.
# A KeyboardInterrupt is the user's, and passes.
CRASHES = (Exception, SystemExit)


class UserError(Exception):
    """Bad input by the user: shown as one line, exit status 2.

    The message names the field, its value, the rule and the fix.
    """


class PolicyError(Exception):
    """What went wrong in the process of a policy, in the words of that process.

    Attributes
    ----------
    ended
        Whether the process of the policy has ended.
    """

    ended = False


def one_line(error: BaseException, limit: int = 500) -> str:
    """Describe an exception in one line of at most `limit` characters.

    The message alone where it is a `UserError` or `PolicyError`, else its type and its message.
    """
    alone = isinstance(error, UserError | PolicyError)
    text = str(error) if alone else f"{type(error).__name__}: {error}"
    return printable(" ".join(text.split())[:limit])


def printable(text: str) -> str:
    """Return `text` with what UTF-8 cannot encode, lone surrogates, as escape sequences."""
    return text.encode("utf-8", "backslashreplace").decode()


def shortened(value: str, quoted: bool = True) -> str:
    """Return a value as a message shows it: quoted, and cut where it is long."""
    text = value if len(value) <= SHOWN else value[: SHOWN - 3] + "..."
    return repr(text) if quoted else text


def plain_text(text: str, limit: int = sys.maxsize) -> str:
    """Return a foreign text in one line of at most `limit` characters, without control ones."""
    clean = "".join(x if x.isprintable() else " " for x in text[: 10 * limit])
    line = " ".join(clean.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
