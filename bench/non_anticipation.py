"""Non-anticipation: no decision up to a tick depends on what lies after it.

An episode is replayed on the same instance with a rewritten future, and all decisions up to the
tick are compared. What is rewritten is everything that a policy with `observe=arrived` does not
know at the tick: tasks released later (all of them are left out, or as many others arrive at other
times), true durations of tasks that have not ended, unannounced outages.

The tick and the new future are drawn from a generator that no policy can know in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bench.errors import CRASHES, one_line
from bench.generators import without_seed
from bench.instance import NOT_ELIGIBLE, Instance, InstanceError, Ints, Outage
from bench.observation import Observation
from bench.rollout import Actor, legal_action
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import Simulator

INSTANCES = 2  # checked of a run, the smallest ones
DECISIONS = 200  # of a replay, at most
REPETITIONS = 3  # of replays that differ, before they count
MORE_TASKS = 3  # arrive in a rewritten future, at least, where there are as many tasks
OUTCOMES = ("checked", "not reproducible", "not applicable", "failed")


class Decision(NamedTuple):
    """One decision of a replay."""

    tick: int
    action: int | str  # flat, on the unpadded observation; an error in words
    observed: bytes  # the observation


class Replay(NamedTuple):
    """The first decisions of an episode, and what they had started by then."""

    decisions: list[Decision]
    schedule: Schedule


@dataclass(frozen=True)
class Outcome:
    """What the comparison of a policy found.

    Attributes
    ----------
    status
        `checked`: no decision depends on the future. `not reproducible`: the policy decides
        differently when nothing is rewritten, so nothing can be compared. `not applicable`: nothing
        is hidden. `failed`: `difference` says which decision depends on the future.
    compared
        Number of decisions that were compared.
    difference
        The first decision that differs, in words; empty where none does.
    """

    status: str
    compared: int = 0
    difference: str = ""


def check(
    fresh: Callable[[], Actor],
    instances: Sequence[Instance],
    setting: Setting,
    rngs: Sequence[np.random.Generator],
    draw: np.random.Generator | None = None,
    most: int = DECISIONS,
) -> Outcome:
    """Replay each instance twice unchanged and then with rewritten futures.

    Parameters
    ----------
    fresh
        Returns the policy as it was before the run, at each call a new copy.
    instances
        The instances to replay.
    setting
        Under which they are played.
    rngs
        The generator of the policy for each instance; every replay uses it in the same state.
    draw
        Draws the ticks and the futures; default one seeded by the operating system.
    most
        Largest number of decisions of a replay.
    """
    if setting.information != "online" or all(one.sharing == "budget" for one in instances):
        return Outcome("not applicable")
    draw = np.random.default_rng() if draw is None else draw
    compared = 0
    for instance, rng in zip(instances, rngs, strict=True):
        first = replay(fresh(), instance, setting, rng, most=most)
        again = replay(fresh(), instance, setting, rng, most=most)
        if first.decisions != again.decisions:
            return Outcome("not reproducible", compared)
        tick = first.decisions[int(draw.integers(len(first.decisions)))].tick
        known = [decision for decision in first.decisions if decision.tick <= tick]

        def decisions(
            one: Instance, rng: np.random.Generator = rng, tick: int = tick, count: int = len(known)
        ) -> list[Decision]:
            return replay(fresh(), one, setting, rng, until=tick, most=count).decisions

        for others_arrive in (False, True):
            other = rewritten(instance, first.schedule, tick, draw, others_arrive)
            changed = decisions(other)
            if words := _difference(known, changed, tick):
                for _ in range(REPETITIONS):  # a search that a busy machine cuts short may differ
                    if decisions(instance) != known or decisions(other) != changed:
                        return Outcome("not reproducible", compared)
                return Outcome("failed", compared, f"{instance.name or 'instance'}: {words}")
            compared += len(known)
    return Outcome("checked", compared)


def replay(
    actor: Actor,
    instance: Instance,
    setting: Setting,
    rng: np.random.Generator,
    until: int | None = None,
    most: int = DECISIONS,
) -> Replay:
    """Play the first decisions of an episode.

    Parameters
    ----------
    actor
        Decides; it begins a new episode.
    rng
        Generator of the policy; a copy of it is used.
    until
        No decision is made after this tick; None: to the end.
    most
        Largest number of decisions.
    """
    simulator = Simulator([instance], setting, window=actor.window)
    made: list[Decision] = []
    try:
        actor.begin(without_seed(rng))
    except CRASHES as error:
        return Replay([Decision(0, one_line(error), b"")], simulator.schedule(0))
    while not simulator.terminated[0] and len(made) < most:
        observation = simulator.observation(0)
        if until is not None and observation.time > until:
            break
        observed = _content(observation)
        try:
            action = legal_action(actor.act(observation)[0], observation)
        except CRASHES as error:
            made.append(Decision(observation.time, one_line(error), observed))
            break
        made.append(Decision(observation.time, action, observed))
        simulator.step(np.array([simulator.flat(action, observation)]))
    return Replay(made, simulator.schedule(0))


def rewritten(
    instance: Instance,
    schedule: Schedule,
    tick: int,
    draw: np.random.Generator,
    others_arrive: bool = True,
) -> Instance:
    """Return `instance` with another future after `tick`.

    Tasks released by then come first and keep their order; the agents, the quotas and announced
    outages stay.

    Parameters
    ----------
    schedule
        What has been started by `tick`: pieces that start later do not count.
    others_arrive
        Whether other tasks arrive after `tick`, or none.
    """
    arrived = np.flatnonzero(instance.release <= tick)
    duration = _other_durations(instance, schedule, tick, draw)
    changes: dict[str, Any] = {
        "duration": duration[arrived],
        **{
            name: None if (value := getattr(instance, name)) is None else value[arrived]
            for name in ("estimate", "demand", "release", "weight", "due", "tenant", "kind")
        },
    }
    outages = _other_outages(instance, tick, draw)
    known = replace(instance, name="", outages=outages, **changes)
    if not others_arrive:
        return known
    later = instance.n_tasks - len(arrived)
    rows = draw.integers(instance.n_tasks, size=max(later, min(MORE_TASKS, instance.n_tasks)))
    span = max(int(instance.release.max()) - tick, int(instance.shortest().mean()), len(rows))
    release = np.sort(tick + draw.integers(1, span + 1, size=len(rows)))
    new = {name: getattr(instance, name)[rows] for name in ("estimate", "demand", "weight", "kind")}
    new |= {"duration": instance.duration[rows], "release": release}
    if instance.due is not None:
        new["due"] = np.maximum(0, release + (instance.due - instance.release)[rows])
    if instance.tenant is not None:
        new["tenant"] = instance.tenant[rows]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(known, name), value]) for name, value in new.items()
    }
    try:
        return replace(known, **joined)
    except InstanceError:  # more work than the largest instances may have
        return known


def _other_durations(
    instance: Instance, schedule: Schedule, tick: int, draw: np.random.Generator
) -> Ints:
    """Return (N, T) true durations that agree with all completions up to `tick`.

    Tasks that have not ended by then may end earlier than in the instance, but not by `tick`.
    """
    least = np.ones_like(instance.duration)
    pieces = zip(schedule.task, schedule.agent, schedule.start, schedule.end, strict=True)
    for task, agent, start, end in (map(int, piece) for piece in pieces):
        if start <= tick:
            kind = int(instance.agent_type[agent])
            whole = int(instance.duration[task, kind])
            ended = end <= tick and end - start == whole
            run = whole if ended else min(end, tick) - start + 1
            least[task, kind] = max(least[task, kind], run)
    most = np.maximum(least, instance.duration)
    drawn = draw.integers(least, most, endpoint=True)
    return np.where(instance.duration == NOT_ELIGIBLE, NOT_ELIGIBLE, drawn)


def _other_outages(instance: Instance, tick: int, draw: np.random.Generator) -> tuple[Outage, ...]:
    """Return the outages: unannounced ones that begin after `tick` are moved or left out.

    One that has begun ends at another tick.
    """
    kept = []
    for outage in instance.outages:
        begin, end = outage.start, outage.end
        if outage.announced or end <= tick + 1:
            kept.append(outage)
        elif begin <= tick:
            kept.append(outage._replace(end=int(draw.integers(tick + 1, end, endpoint=True))))
        elif draw.random() < 0.5:
            start = int(draw.integers(begin, end))
            kept.append(outage._replace(start=start))
    return tuple(kept)


def _difference(known: list[Decision], changed: list[Decision], tick: int) -> str:
    """Describe the first decision, or the first observation, that differs; empty: none does."""
    for i, before in enumerate(known):
        after = changed[i] if i < len(changed) else None
        if after is None or before.observed != after.observed:
            return (
                f"the observation of decision {i} at tick {before.tick} depends on what lies after "
                f"tick {tick}: something has changed the simulator"
            )
        if before.action != after.action:
            return (
                f"decision {i} at tick {before.tick}: action {before.action} becomes "
                f"{after.action} when only what lies after tick {tick} changes"
            )
    return ""


def _content(observation: Observation) -> bytes:
    """Return all values of an observation."""
    parts = [
        value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        for value in vars(observation).values()
    ]
    return b"|".join(parts)
