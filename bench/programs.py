"""What all programs of the suite have in common: what goes wrong is one line and a status.

| status | meaning |
|---|---|
| 0 | done |
| 1 | something failed |
| 2 | bad input: an argument, an option, a file or a folder |
| 130 | interrupted by the user |

HYDRA_FULL_ERROR=1 shows the traceback.
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

from bench.errors import UserError, one_line
from bench.files import cannot_write
from bench.instance import InstanceError
from bench.setting import SettingError

WRONG_PATH = (  # system errors that come from what a path names
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EROFS),
)
BAD_INPUT = (UserError, InstanceError, SettingError)
LONGEST_LINE = 500
P = ParamSpec("P")


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, f"{' '.join(message.split())}; {self.prog} --help lists the options\n")


def program(main: Callable[P, int]) -> Callable[P, int]:
    """Make what `main` raises one line and an exit status."""

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            return failure(error)

    return guarded


def failure(error: Exception) -> int:
    """Print what failed in one line; return 2 for bad input or a wrong path, else 1."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    error = cannot_write(error) or error
    if isinstance(error, BAD_INPUT):
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    if isinstance(error, OSError) and error.errno in WRONG_PATH:
        name = str(error.filename or "a file")
        shown = name if len(name) <= LONGEST_LINE else f"{name[: LONGEST_LINE // 2]}..."
        print(f"{shown}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{one_line(error)} (HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
    return 1
