"""The one exception that means bad input."""

from __future__ import annotations


class UserError(Exception):
    """Bad input by the user: shown as one line, exit status 2. The message names the field and the fix."""
