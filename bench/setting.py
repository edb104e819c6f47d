"""The rules under which an instance is played and scored.

Tracks, objectives and the decision process are defined in `bench/docs/problem.md`, sections 3 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.instance import Instance
from bench.renamed import current_setting

TRACKS = ("assign", "schedule", "online")
OBJECTIVES = ("total_time", "makespan", "tardiness", "bounded_slowdown")
MODES = ("fit", "commit")
BACKFILLS = ("none", "easy")
OBSERVE = ("all", "arrived")
EVENT_ORDERS = ("batched", "sequential")
# Bounded slowdown treats a task shorter than this as if it took this long (Feitelson et al., JSSPP
# 1997).
SLOWDOWN_THRESHOLD_SECONDS = 10.0


class SettingError(ValueError):
    """A setting that contradicts itself or the instance; the message names field and fix."""


def clairvoyant_track(instance: Instance) -> str:
    """Return the track in which everything about an instance is known."""
    return "assign" if instance.sharing == "budget" else "schedule"


@dataclass(frozen=True)
class Setting:
    """How an instance is played: the track, the objective and details of the decision process.

    Attributes
    ----------
    track : str
        What is known: `assign`, `schedule` or `online`.
    objective : str
        What is minimised: `total_time`, `makespan`, `tardiness` or `bounded_slowdown`.
    mode : str
        `fit`: only tasks that fit now may start. `commit`: the chosen task waits until it fits.
    backfill : str
        `none` or `easy` (commit mode only).
    observe : str
        `all`: policies observe unreleased tasks and true durations. `arrived`: they observe tasks
        that have arrived, with estimated durations.
    event_order : str
        `batched`: all events of a tick, then a decision. `sequential`: a decision after each event,
        arrivals first.

    Raises
    ------
    SettingError
        If a value is none of its choices or values contradict each other.
    """

    track: str = "schedule"
    objective: str = "total_time"
    mode: str = "fit"
    backfill: str = "none"
    observe: str = "all"
    event_order: str = "batched"

    def __post_init__(self) -> None:
        choices = {
            "track": TRACKS,
            "objective": OBJECTIVES,
            "mode": MODES,
            "backfill": BACKFILLS,
            "observe": OBSERVE,
            "event_order": EVENT_ORDERS,
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise SettingError(
                    f"{field}: {getattr(self, field)!r} must be one of {', '.join(allowed)}"
                )
        if self.track == "online" and self.observe == "all":
            raise SettingError(
                "observe: track=online shows arrived tasks only; set observe=arrived"
            )
        if self.backfill == "easy" and self.mode != "commit":
            raise SettingError("backfill: easy needs mode=commit; set mode=commit or backfill=none")
        if self.track == "assign" and self.objective != "total_time":
            raise SettingError(
                f"objective: track=assign has no clock, so only total_time; got {self.objective}"
            )
        if self.track == "assign" and self.mode != "fit":
            raise SettingError("mode: track=assign has no clock to wait for; set mode=fit")
        if self.track == "assign" and self.event_order != "batched":
            raise SettingError(
                "event_order: track=assign has no clock and no events; set event_order=batched"
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Setting:
        """Build a setting from its fields, also from those that an earlier version stored.

        Parameters
        ----------
        data
            Field names and values; fields that are left out take their defaults. Former names and
            values (`bench.renamed`) are accepted.

        Raises
        ------
        SettingError
            If there is an unknown field or a value is not allowed.
        """
        fields = current_setting(data)
        known = cls.__dataclass_fields__
        for name in fields:
            if name not in known:
                raise SettingError(f"{name}: unknown field; known are {', '.join(known)}")
        return cls(**fields)

    @property
    def information(self) -> str:
        """What a policy may know: `clairvoyant` if it observes everything, else `online`."""
        return "clairvoyant" if self.observe == "all" else "online"

    def check(self, instance: Instance) -> None:
        """Raise SettingError if `instance` cannot be played under this setting."""
        if (self.track == "assign") != (instance.sharing == "budget"):
            track = clairvoyant_track(instance)
            possible = track if track == "assign" else f"{track} or online"
            raise SettingError(
                f"track: {self.track} does not go with sharing={instance.sharing}; "
                f"set track={possible}"
            )
        if self.objective == "tardiness" and instance.due is None:
            raise SettingError(
                "objective: tardiness needs due dates, and this instance has none; "
                "set another objective"
            )
