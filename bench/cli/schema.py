"""What each field of a run's configuration may be: one table, checked before anything is built.

The fields of a plug-in (`solver.lr`) are the parameters of its class; `bench.cli.options` checks
them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypedDict

from bench.cli.value_types import NOT_NEGATIVE, check_value, one_of, shown, unknown
from bench.contracts import SPLITS
from bench.errors import UserError
from bench.plugins import GROUPS, members
from bench.setting import BACKFILLS, EVENT_ORDERS, MODES, OBJECTIVES, OBSERVE, TRACKS


class Reference(TypedDict):
    """`reference`: how missing references are computed."""

    seconds: Annotated[float, NOT_NEGATIVE]
    shipped: bool
    solver: Mapping[str, Any]


FIELDS: Mapping[str, Any] = {
    "seed": Annotated[int, NOT_NEGATIVE],
    "split": one_of(*SPLITS),
    "track": one_of("auto", *TRACKS),
    "objective": one_of(*OBJECTIVES),
    "mode": one_of(*MODES),
    "backfill": one_of(*BACKFILLS),
    "observe": one_of("auto", *OBSERVE),
    "event_order": one_of(*EVENT_ORDERS),
    "isolate": bool,
    "baselines": list[str],
    "reference": Reference,
    "runs": str,
    "cache": str | None,
    "rerun": bool,
    "update_references": bool,
    "sweep": str | None,
}
OPTIONAL = ("logs",)  # groups of which nothing may be chosen


def check_fields(values: Mapping[str, Any]) -> None:
    """Check every field of a composed and resolved configuration but the options of plug-ins.

    Raises
    ------
    UserError
        For the first one that is missing, unknown or of the wrong type.
    """
    for key in values:
        if key not in FIELDS and key not in GROUPS:
            raise unknown(key, "Options:", key, (*FIELDS, *GROUPS))
    for key, kind in FIELDS.items():
        if key not in values:
            raise UserError(f"{key}: missing; leave ~{key} out, or set {key}=VALUE")
        check_value(key, values[key], kind)
    for group in GROUPS:
        check_group(group, values.get(group))
    check_group("reference.solver", values["reference"]["solver"])
    _check_baselines(values["baselines"], members("solver"))


def check_group(group: str, chosen: Any) -> None:
    """Check that a group holds a plug-in: a mapping with a `_target_`."""
    if chosen is None and group in OPTIONAL:
        return
    if not isinstance(chosen, Mapping) or not isinstance(chosen.get("_target_"), str):
        there = ", ".join(sorted(members(group.rpartition(".")[2])))
        if chosen is None and group == "solver":
            raise UserError(f"solver: missing; type +solver=NAME, one of {there}")
        what = "missing" if chosen is None else f"{shown(chosen)} names no class in _target_"
        raise UserError(f"{group}: {what}; choose one of {there}")


def _check_baselines(names: Collection[str], there: Collection[str]) -> None:
    named: set[str] = set()
    for i, name in enumerate(names):
        if name not in there:
            raise unknown(f"baselines[{i}]: {name}", "there are", name, there)
        if name in named:
            raise UserError(f"baselines[{i}]: {name} is named twice; name it once")
        named.add(name)
