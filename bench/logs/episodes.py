"""Logged episodes, which offline learners read, and the recorder that makes them in the simulator.

Notation: E episodes, T decisions in all, B environments, D numbers in an observation
(`bench.simulator.view.Layout`), A flat actions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import UserError
from bench.instance import Ints
from bench.simulator.tables import INSTANCE
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import Layout, from_simulator, layout_of, return_scale

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LoggedEpisodes:
    """Logged episodes, one after the other.

    An episode of n decisions has n + 1 states: the state of each decision, and the state after the
    last one. `observation` therefore holds T + E rows.

    Attributes
    ----------
    name
        Name of the log.
    layout
        How an observation lies in a flat vector.
    objective
        The objective that the rewards count, one of `bench.setting.OBJECTIVES`.
    length
        (E,) number of decisions of each episode.
    observation
        (T + E, D) float32 states. A policy may read every column but `Layout.scale`.
    action
        (T,) flat actions.
    reward
        (T,) rewards; the sum over an episode is its return.
    terminated
        (T,) whether the episode ended after this decision.
    truncated
        (T,) whether the log ends after this decision although the episode went on.
    probability
        (T,) probability of the action under the behaviour policy; None where it is unknown.
    instance
        (E,) hash of the instance of each episode.
    behaviour
        (E,) name of the behaviour policy of each episode.

    Raises
    ------
    UserError
        Naming the log, the field, the decision and the rule that is broken.
    """

    name: str
    layout: Layout
    objective: str
    length: Ints  # (E,)
    observation: NDArray[np.float32]  # (T + E, D)
    action: Ints  # (T,)
    reward: Floats  # (T,)
    terminated: Bools  # (T,)
    truncated: Bools  # (T,)
    probability: Floats | None  # (T,)
    instance: tuple[str, ...]  # (E,)
    behaviour: tuple[str, ...]  # (E,)

    def __post_init__(self) -> None:
        self._check_shapes()
        ends = np.zeros(len(self.action), dtype=bool)
        ends[np.cumsum(self.length) - 1] = True
        self._check_all(
            "terminated, truncated",
            self.terminated.astype(int) + self.truncated == ends,
            "the last decision of an episode has one of them, no other has any",
        )
        self._check_all("reward", np.isfinite(self.reward), "must be finite")
        finite = np.asarray(np.isfinite(self.observation).all(axis=1))
        self._check_all(
            "observation",
            finite[self.state] & finite[self.state + 1],
            "must be finite, as must be the observation that follows",
        )
        self._check_all(
            "action",
            (self.action >= 0) & (self.action < self.layout.actions),
            f"must be 0 to {self.layout.actions - 1}",
        )
        self._check_all(
            "action",
            self.mask[np.arange(len(self.action)), self.action],
            "is masked; remove the episode, illegal actions cannot be learnt from",
        )
        if self.probability is not None:
            self._check_all(
                "probability",
                (self.probability > 0) & (self.probability <= 1),
                "must lie in (0, 1]",
            )

    @property
    def state(self) -> Ints:
        """(T,) row of `observation` that each decision was made in; the next row is its result."""
        return np.arange(len(self.action)) + np.repeat(np.arange(len(self.length)), self.length)

    @property
    def first(self) -> Ints:
        """(E,) index of the first decision of each episode."""
        return np.cumsum(self.length) - self.length

    @property
    def mask(self) -> Bools:
        """(T, A) legal actions of each decision."""
        return self.observation[self.state][:, -self.layout.actions :] > 0

    @property
    def returns(self) -> Floats:
        """(E,) undiscounted return of each episode."""
        return np.add.reduceat(self.reward, self.first)

    @property
    def return_by_behaviour(self) -> dict[str, float]:
        """Mean return of each behaviour policy, by its name."""
        names = np.array(self.behaviour)
        return {
            name: float(self.returns[names == name].mean())
            for name in dict.fromkeys(self.behaviour)
        }

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the content, as 64 hexadecimal digits.

        `truncated` is not hashed: it follows from the lengths and `terminated`.
        """
        digest = hashlib.sha256(
            repr((self.layout, self.objective, self.instance, self.behaviour)).encode()
        )
        for column in (
            self.length,
            self.observation,
            self.action,
            self.reward,
            self.terminated,
            self.probability,
        ):
            digest.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def select(self, chosen: Sequence[int] | Ints) -> LoggedEpisodes:
        """Return the episodes with the numbers `chosen`, in that order."""
        chosen = np.asarray(chosen, dtype=np.int64)
        first = self.first
        rows = np.concatenate([np.arange(first[e], first[e] + self.length[e]) for e in chosen])
        states = np.concatenate([first[e] + e + np.arange(self.length[e] + 1) for e in chosen])
        return replace(
            self,
            length=self.length[chosen],
            observation=self.observation[states],
            action=self.action[rows],
            reward=self.reward[rows],
            terminated=self.terminated[rows],
            truncated=self.truncated[rows],
            probability=None if self.probability is None else self.probability[rows],
            instance=tuple(self.instance[e] for e in chosen),
            behaviour=tuple(self.behaviour[e] for e in chosen),
        )

    def _check_shapes(self) -> None:
        """Raise a UserError where a column has the wrong shape or the lengths do not add up."""
        episodes = (len(self.length),)
        decisions = (len(self.action),)
        shapes = {
            "observation": (len(self.action) + len(self.length), self.layout.size),
            "instance": episodes,
            "behaviour": episodes,
            "reward": decisions,
            "terminated": decisions,
            "truncated": decisions,
        }
        if self.probability is not None:
            shapes["probability"] = decisions
        for field, shape in shapes.items():
            if np.shape(getattr(self, field)) != shape:
                self._refuse(f"{field}: shape {np.shape(getattr(self, field))}: must be {shape}")
        if self.length.sum() != len(self.action) or (self.length < 1).any():
            self._refuse(f"length: must be at least 1 each and {len(self.action)} in all")

    def _check_all(self, field: str, holds: Bools, rule: str) -> None:
        """Raise a UserError for the first decision at which `holds` (T,) is false."""
        if holds.all():
            return
        t = int(np.argmin(holds))
        episode = int(np.searchsorted(np.cumsum(self.length), t, side="right"))
        numbers = field in ("action", "reward", "probability")
        value = f"value {getattr(self, field)[t]}: " if numbers else ""
        where = f"{field}[{t}] (decision {t - self.first[episode]} of episode {episode})"
        self._refuse(f"{where}: {value}{rule}")

    def _refuse(self, problem: str) -> NoReturn:
        raise UserError(f"logs {self.name}: {problem}")


def concatenate(name: str, parts: Sequence[LoggedEpisodes]) -> LoggedEpisodes:
    """Return one log of several with the same layout and objective.

    Parameters
    ----------
    name
        Name of the new log.
    parts
        At least one log. The probabilities are kept where all of them have some.

    Raises
    ------
    UserError
        Where layouts or objectives differ.
    """
    first = parts[0]
    for other in parts[1:]:
        if (other.layout, other.objective) != (first.layout, first.objective):
            raise UserError(
                f"logs {name}: {other.name} has {other.layout} for {other.objective}, {first.name} "
                f"{first.layout} for {first.objective}; logs can be joined only where these agree"
            )
    columns: dict[str, object] = {}
    for field in fields(LoggedEpisodes)[3:]:
        values = [getattr(part, field.name) for part in parts]
        if field.name in ("instance", "behaviour"):
            columns[field.name] = tuple(text for value in values for text in value)
        elif any(value is None for value in values):
            columns[field.name] = None
        else:
            columns[field.name] = np.concatenate(values)
    return LoggedEpisodes(name, first.layout, first.objective, **columns)  # type: ignore[arg-type]


class _Decisions(NamedTuple):
    """What is known before a step of all B environments."""

    observation: Tensor  # (B, D)
    action: Tensor  # (B,)
    probability: Tensor  # (B,)
    playing: Tensor  # (B,) bool
    instance: Tensor  # (B,) number of the instance of each environment


class _Outcome(NamedTuple):
    """What a step of all B environments led to."""

    reward: Tensor  # (B,)
    over: Tensor  # (B,) bool, the step completed an episode
    truncated: Tensor  # (B,) bool, that episode was cut
    final: dict[int, Tensor]  # environment whose episode is over -> (D,) its last state


class EpisodeRecorder:
    """Records the steps of B environments and cuts them into the episodes that were completed.

    Call `before_step`, step the simulator, then call `after_step`, before any restart.

    Parameters
    ----------
    behaviour
        Name of the behaviour policy.
    """

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.simulator: TensorSimulator
        self.layout: Layout
        self._decisions: list[_Decisions] = []
        self._outcomes: list[_Outcome] = []

    def before_step(self, simulator: TensorSimulator, action: Tensor, probability: Tensor) -> None:
        """Record the current states and the actions that are taken next.

        Parameters
        ----------
        simulator
            The simulator before the step.
        action
            (B,) flat actions.
        probability
            (B,) their probabilities under the behaviour policy.
        """
        self.simulator = simulator
        self.layout = layout_of(simulator)
        instance = simulator.state.env[:, INSTANCE].clone()
        self._decisions.append(
            _Decisions(
                self._observation(),
                action.clone(),
                probability.clone(),
                simulator.playing,
                instance,
            )
        )

    def after_step(self, reward: Tensor) -> None:
        """Record the rewards (B,) of the step and the last state of each episode that it ended."""
        over = ~self.simulator.playing & self._decisions[-1].playing
        final: dict[int, Tensor] = {}
        if over.any():
            observation = self._observation()
            final = {b: observation[b] for b in over.nonzero().flatten().tolist()}
        truncated = self.simulator.truncated & over
        self._outcomes.append(_Outcome(reward.clone(), over, truncated, final))

    def episodes(self, name: str) -> LoggedEpisodes:
        """Return the completed episodes as the log `name`, by environment, then by time.

        Raises
        ------
        UserError
            Where no episode was completed.
        """
        if not any(outcome.final for outcome in self._outcomes):
            raise UserError(f"logs {name}: no episode was completed; record more decisions")
        before = zip(*self._decisions, strict=True)
        observation, action, probability, playing, instance = map(_stack, before)
        rewards, overs, truncations, finals = zip(*self._outcomes, strict=True)
        over = _stack(overs)
        truncated = _stack(truncations)
        spans = _episode_spans(over, playing)

        def cut(column: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([column[first : last + 1, b] for b, first, last in spans])

        states: list[NDArray[Any]] = []
        for b, first, last in spans:
            states += [observation[first : last + 1, b], finals[last][b].cpu().numpy()[None]]
        hashes = [one.hash() for one in self.simulator.instances]
        return LoggedEpisodes(
            name,
            self.layout,
            self.simulator.setting.objective,
            length=np.array([last - first + 1 for _, first, last in spans]),
            observation=np.concatenate(states),
            action=cut(action),
            reward=cut(_stack(rewards)).astype(np.float64),
            terminated=cut(over & ~truncated),
            truncated=cut(truncated),
            probability=cut(probability).astype(np.float64),
            instance=tuple(hashes[int(instance[first, b])] for b, first, _ in spans),
            behaviour=(self.behaviour,) * len(spans),
        )

    def _observation(self) -> Tensor:
        """Return the current states (B, D) of all environments."""
        return self.layout.flat(from_simulator(self.simulator), return_scale(self.simulator))


def _stack(column: Iterable[Tensor]) -> NDArray[Any]:
    """Return the tensors (B, ...) of all steps as one array (steps, B, ...)."""
    return torch.stack(list(column)).cpu().numpy()


def _episode_spans(over: Bools, playing: Bools) -> list[tuple[int, int, int]]:
    """Return (environment, first step, last step) of each completed episode.

    Parameters
    ----------
    over, playing
        (steps, B) bool: the step completed an episode; an episode was running before the step.
    """
    spans = []
    for b in range(over.shape[1]):
        earliest = 0
        for last in np.flatnonzero(over[:, b]).tolist():
            first = earliest + int(np.flatnonzero(playing[earliest : last + 1, b])[0])
            spans.append((b, first, last))
            earliest = last + 1
    return spans
