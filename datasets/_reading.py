"""The one line that every reader of files ends with: what it read, used and left out, and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)
SHOWN_NAMES = 5  # files that the line names


class Reading:
    """Counts what a reader reads; `finish` logs the line.

    Parameters
    ----------
    source
        The file or folder.
    unit
        What is counted, in the plural.
    amount
        What `use` and `leave_out` may be given the amount of, such as "GPU time", of which the line
        states the share that is left out.
    """

    def __init__(self, source: Any, unit: str, amount: str = "") -> None:
        self.source = source
        self.unit = unit
        self.amount = amount
        self._used = 0
        self._used_amount = 0.0
        self._left_out: dict[str, tuple[int, float]] = {}  # reason -> count, amount
        self._notes: list[str] = []

    def use(self, count: int = 1, amount: float = 0.0) -> None:
        """Count what is used."""
        self._used += count
        self._used_amount += amount

    def leave_out(self, reason: str, count: int = 1, amount: float = 0.0) -> None:
        """Count what is left out; the reason follows the number, as in "3 without duration"."""
        before = self._left_out.get(reason, (0, 0.0))
        self._left_out[reason] = (before[0] + count, before[1] + amount)

    def ignore_files(self, names: Sequence[str], where: str = "in the folder") -> None:
        """Name the files that are not read."""
        if names:
            more = len(names) - SHOWN_NAMES
            listed = ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
            self.note(f"not read {where}: {listed}")

    def note(self, text: str) -> None:
        """Add something else that the user should know."""
        self._notes.append(text)

    @property
    def line(self) -> str:
        """The line."""
        left_out = sum(count for count, _ in self._left_out.values())
        total = self._used_amount + sum(amount for _, amount in self._left_out.values())
        line = f"{self.source}: {self._used + left_out:,} {self.unit} read, {self._used:,} used"
        if left_out:
            reasons = []
            for reason, (count, amount) in self._left_out.items():
                share = f" ({100 * amount / total:.1f} % of the {self.amount})" if amount else ""
                reasons.append(f"{count:,} {reason}{share}")
            line += f", {left_out:,} left out: {', '.join(reasons)}"
        return "; ".join([line, *self._notes])

    def finish(self) -> None:
        """Log the line: as a warning where anything is left out."""
        log.log(logging.WARNING if self._left_out else logging.INFO, "%s", self.line)
