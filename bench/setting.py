"""Under which rules an instance is played and scored (SPEC: tracks, objectives, decision process)."""

from __future__ import annotations

from dataclasses import dataclass

from bench.instance import Instance

TRACKS = ("assign", "schedule", "online")
OBJECTIVES = ("total_time", "makespan", "tardiness", "bounded_slowdown")


class SettingError(ValueError):
    """A setting that contradicts itself or the instance; the message names the field and the fix."""


@dataclass(frozen=True)
class Setting:
    """How an instance is played: the track, the objective and the details of the decision process.

    Raises:
        SettingError: for a value outside its choices or a combination that means nothing.
    """

    track: str = "schedule"  # what is known: assign | schedule | online
    objective: str = "total_time"  # total_time | makespan | tardiness | bounded_slowdown
    mode: str = (
        "fit"  # fit: only what fits now may start | commit: the chosen task waits until it fits
    )
    backfill: str = "none"  # none | easy (commit mode only)
    observe: str = "all"  # all: unreleased tasks and true durations are seen | arrived: as online
    events: str = "together"  # together: all events of a tick, then a decision | singly: one at a time, arrivals first

    def __post_init__(self) -> None:
        choices = {
            "track": TRACKS,
            "objective": OBJECTIVES,
            "mode": ("fit", "commit"),
            "backfill": ("none", "easy"),
            "observe": ("all", "arrived"),
            "events": ("together", "singly"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise SettingError(
                    f"{field}: {getattr(self, field)!r} must be one of {', '.join(allowed)}"
                )
        if self.track == "online" and self.observe == "all":
            raise SettingError("observe: track=online sees arrived tasks only; set observe=arrived")
        if self.backfill == "easy" and self.mode != "commit":
            raise SettingError("backfill: easy needs mode=commit")
        if self.track == "assign" and self.objective != "total_time":
            raise SettingError(
                f"objective: track=assign has no clock, so only total_time; got {self.objective}"
            )
        if self.track == "assign" and self.mode != "fit":
            raise SettingError("mode: track=assign has no clock to wait for; set mode=fit")

    @property
    def information(self) -> str:
        """`clairvoyant` where the future or true durations are seen, else `online`."""
        return "clairvoyant" if self.observe == "all" else "online"

    def check(self, instance: Instance) -> None:
        """Raise SettingError where `instance` cannot be played under this setting."""
        if (self.track == "assign") != (instance.sharing == "budget"):
            fits = "assign" if instance.sharing == "budget" else "schedule or online"
            raise SettingError(
                f"track: {self.track} does not go with sharing={instance.sharing}; set track={fits}"
            )
        if self.objective == "tardiness" and instance.due is None:
            raise SettingError("objective: tardiness needs due dates, and this instance has none")
