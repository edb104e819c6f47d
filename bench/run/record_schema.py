"""Which fields of a stored record are of the right form.

A record is what a run says of itself. `valid_claims` keeps what may be shown as its claim; nothing
of it is a number of the leaderboard that could be computed from the run's schedules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any

from bench.contracts import SPLITS
from bench.errors import plain_text
from bench.non_anticipation import OUTCOMES
from bench.setting import (
    BACKFILLS,
    EVENT_ORDERS,
    MODES,
    OBJECTIVES,
    OBSERVE,
    TRACKS,
    Setting,
    SettingError,
)

# of `bench.non_anticipation.OUTCOMES`, or None where a record has none: the least comes first
WEAKEST = ("failed", None, "not applicable", "not reproducible", "checked")
NOT_CHECKED = {  # outcomes that are no proof, in words
    "failed": "non-anticipation failed: decisions depend on the future",
    "not reproducible": "not reproducible: it decides differently when nothing is changed, so it "
    "is not known whether decisions depend on the future",
}
REQUIRED = ("solver", "dataset", "seed", "track", "objective", "status")
LONGEST = 100  # characters of a name
ERROR = 500  # characters of an error
SECONDS = 1e9  # 30 years

Rule = tuple[Callable[[Any], bool], str]  # whether a value is valid, the rule in words


def _one_of(*allowed: object) -> Rule:
    return (
        lambda value: isinstance(value, str) and value in allowed,
        f"one of {', '.join(map(str, allowed))}",
    )


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


NAME: Rule = (
    lambda value: isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable(),
    f"1 to {LONGEST} printable characters",
)
DURATION: Rule = (
    lambda value: value is None or _is_number(value, 0, SECONDS),
    f"a number of seconds from 0 to {SECONDS:g}",
)
RULES: Mapping[str, Rule] = {
    "solver": NAME,
    "dataset": NAME,
    "split": _one_of(*SPLITS),
    "seed": (lambda value: type(value) is int and 0 <= value < 2**63, "an integer from 0 on"),
    "track": _one_of(*TRACKS),
    "objective": _one_of(*OBJECTIVES),
    "mode": _one_of(*MODES),
    "backfill": _one_of(*BACKFILLS),
    "observe": _one_of(*OBSERVE),
    "event_order": _one_of(*EVENT_ORDERS),
    "information": _one_of("clairvoyant", "online"),
    "isolated": (lambda value: isinstance(value, bool), "true or false"),
    "non_anticipation": _one_of(*OUTCOMES),
    "status": _one_of("finished", "failed"),
    "error": (lambda value: value is None or isinstance(value, str), "a text or null"),
    "set_hash": (
        lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)),
        "64 hexadecimal digits",
    ),
    "objective_mean": (
        lambda value: value is None or _is_number(value, -1e300, 1e300),
        "a finite number",
    ),
    "feasible": (lambda value: value is None or _is_number(value, 0, 1), "a share from 0 to 1"),
    "train_seconds": DURATION,
    "solve_seconds": DURATION,
    "git_commit": (
        lambda value: (
            value is None
            or (isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{7,64}(-dirty)?", value)))
        ),
        "a commit in hexadecimal digits",
    ),
    "logs/name": NAME,
    "learning/selection": NAME,
    "offline/learning/selection": NAME,
}


def valid_claims(record: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a record that have the right form, and what is wrong with the others.

    Fields that no rule names are left out. The information is that of the setting, where the record
    says what was observed.
    """
    if not isinstance(record, Mapping):
        return {}, [f"result.json: an object is needed, got {type(record).__name__}"]
    found: dict[str, Any] = {}
    wrong = [f"{name}: missing" for name in REQUIRED if name not in record]
    for name, (is_valid, rule) in RULES.items():
        if name not in record:
            continue
        if is_valid(record[name]):
            found[name] = record[name]
        else:
            wrong.append(f"{name}: {shown(record[name])} claimed, {rule} is needed")
    if found.get("error"):
        found["error"] = plain_text(found["error"], ERROR)
    wrong += _setting_problems(found)
    return found, wrong


def _setting_problems(found: dict[str, Any]) -> list[str]:
    """Return why the claimed setting is none; set the information that belongs to it."""
    values = {field.name: found[field.name] for field in fields(Setting) if field.name in found}
    if "observe" not in values:
        values["observe"] = "arrived" if values.get("track") == "online" else "all"
    try:
        setting = Setting(**values)
    except SettingError as error:
        return [str(error)]
    if "observe" not in found:
        return []
    claimed = found.get("information", setting.information)
    found["information"] = setting.information
    if claimed != setting.information:
        observed = f"observe={setting.observe} is {setting.information}"
        return [f"information: {claimed} claimed, but {observed}"]
    return []


def weakest_outcome(outcomes: Collection[str | None]) -> str | None:
    """Return the least that several runs say about non-anticipation."""
    return next(one for one in WEAKEST if one in outcomes)


def why_not_online(isolated: Any, outcome: str | None) -> str:
    """Return why what a run claims does not show that it was online; empty: it does.

    Parameters
    ----------
    isolated, outcome
        The fields `isolated` and `non_anticipation` of its record.
    """
    reasons = []
    if isolated is not True:
        reasons.append("not isolated: it did not decide in a process of its own (isolate=true)")
    if outcome != "checked":
        reasons.append(NOT_CHECKED.get(str(outcome), "non-anticipation was not checked"))
    return "; ".join(reasons)


def shown(value: Any) -> str:
    """Return a value of a foreign file as a short text."""
    if type(value) is int and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return plain_text(repr(value), 40)
