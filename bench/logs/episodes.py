"""Logged decisions: what offline learners read, and the tape that records them while the simulator is played.

E episodes, T decisions in all, D numbers in an observation (`bench.simulator.view.Layout`), A flat actions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

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


@dataclass(frozen=True, eq=False)
class Episodes:
    """Logged episodes, one after the other. The states of an episode are its decisions and what followed the last of them.

    Raises:
        UserError: naming the log, the episode and the rule that it breaks.
    """

    name: str
    layout: Layout
    objective: str  # what rewards count, see `bench.setting`
    length: Ints  # (E,) decisions of each episode
    observation: NDArray[np.float32]  # (T + E, D) states; a policy reads all but `Layout.scale`
    action: Ints  # (T,) flat
    reward: Floats  # (T,) an episode's sum is its return
    terminated: NDArray[np.bool_]  # (T,) nothing follows
    truncated: NDArray[np.bool_]  # (T,) what follows was not logged
    probability: (
        Floats | None
    )  # (T,) of the action under the behaviour policy; None where it is not known
    instance: tuple[str, ...]  # (E,) hash of the instance that was played
    behaviour: tuple[str, ...]  # (E,) who decided

    def __post_init__(self) -> None:
        decisions, states = len(self.action), len(self.action) + len(self.length)
        shapes = {
            "observation": (states, self.layout.size),
            "instance": (len(self.length),),
            "behaviour": (len(self.length),),
        }
        shapes |= dict.fromkeys(("reward", "terminated", "truncated"), (decisions,))
        for field, shape in shapes.items():
            if np.shape(getattr(self, field)) != shape:
                self._wrong(f"{field}: shape {np.shape(getattr(self, field))}, must be {shape}")
        if self.length.sum() != decisions or (self.length < 1).any():
            self._wrong(f"length: must be at least 1 each and {decisions} in all")
        ends = np.zeros(decisions, dtype=bool)
        ends[np.cumsum(self.length) - 1] = True
        told = self.terminated.astype(int) + self.truncated
        self._all(
            "terminated, truncated",
            told == ends,
            "the last decision has one of them, no other has any",
        )
        self._all("reward", np.isfinite(self.reward), "must be finite")
        finite = np.asarray(np.isfinite(self.observation).all(axis=1))
        self._all(
            "observation",
            finite[self.state] & finite[self.state + 1],
            "must be finite, as must be the one that follows",
        )
        self._all(
            "action",
            (self.action >= 0) & (self.action < self.layout.actions),
            f"must be 0 to {self.layout.actions - 1}",
        )
        self._all(
            "action",
            self.mask[np.arange(decisions), self.action],
            "is masked; illegal actions can not be learnt from",
        )
        if self.probability is not None:
            if np.shape(self.probability) != (decisions,):
                self._wrong(
                    f"probability: shape {np.shape(self.probability)}, must be {(decisions,)}"
                )
            self._all(
                "probability",
                (self.probability > 0) & (self.probability <= 1),
                "must lie in (0, 1]",
            )

    @property
    def state(self) -> Ints:
        """(T,) the row of `observation` at which each decision was made; the next row is what it led to."""
        return np.arange(len(self.action)) + np.repeat(np.arange(len(self.length)), self.length)

    @property
    def first(self) -> Ints:
        """(E,) index of each episode's first decision."""
        return np.cumsum(self.length) - self.length

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(T, A) the legal actions of each decision."""
        return self.observation[self.state][:, -self.layout.actions :] > 0

    @property
    def returns(self) -> Floats:
        """(E,) undiscounted."""
        return np.add.reduceat(self.reward, self.first)

    @property
    def return_by_behaviour(self) -> dict[str, float]:
        """Who decided -> their mean return."""
        who = np.array(self.behaviour)
        return {
            name: float(self.returns[who == name].mean()) for name in dict.fromkeys(self.behaviour)
        }

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over all that was logged, as 64 hexadecimal digits; what is last and not terminated is truncated."""
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

    def part(self, chosen: Sequence[int] | Ints) -> Episodes:
        """Some of the episodes, in the order given."""
        chosen, first = np.asarray(chosen, dtype=np.int64), self.first
        rows = np.concatenate([np.arange(first[e], first[e] + self.length[e]) for e in chosen])
        states = np.concatenate([first[e] + e + np.arange(self.length[e] + 1) for e in chosen])
        return replace(
            self, length=self.length[chosen], observation=self.observation[states],
            **{name: getattr(self, name)[rows] for name in ("action", "reward", "terminated", "truncated")},
            probability=None if self.probability is None else self.probability[rows],
            instance=tuple(self.instance[e] for e in chosen), behaviour=tuple(self.behaviour[e] for e in chosen),
        )  # fmt: skip

    def _all(self, field: str, holds: Any, rule: str) -> None:
        if not holds.all():
            t = int(np.argmin(holds))
            episode = int(np.searchsorted(np.cumsum(self.length), t, side="right"))
            value = (
                f" {getattr(self, field)[t]}"
                if field in ("action", "reward", "probability")
                else ""
            )
            self._wrong(
                f"{field}{value} at decision {t - self.first[episode]} of episode {episode}: {rule}"
            )

    def _wrong(self, what: str) -> None:
        raise UserError(f"logs {self.name}: {what}")


def joined(name: str, parts: Sequence[Episodes]) -> Episodes:
    """One log of several, of the same layout and objective. Their probabilities are kept where all have some."""
    one = parts[0]
    for other in parts[1:]:
        if (other.layout, other.objective) != (one.layout, one.objective):
            raise UserError(f"logs {name}: {other.name} shows {other.layout} for {other.objective}, {one.name} {one.layout} "
                            f"for {one.objective}; logs can be joined only where these agree")  # fmt: skip
    columns: dict[str, object] = {}
    for field in fields(Episodes)[3:]:
        values = [getattr(part, field.name) for part in parts]
        if field.name in ("instance", "behaviour"):
            columns[field.name] = tuple(text for value in values for text in value)
        else:
            columns[field.name] = (
                None if any(value is None for value in values) else np.concatenate(values)
            )
    return Episodes(name, one.layout, one.objective, **columns)  # type: ignore[arg-type]


class Tape:
    """Records what is played in B environments, and cuts it into the episodes that came to their ends."""

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.steps: list[
            list[Tensor]
        ] = []  # observation, action, probability, playing, instance, reward, over, truncated
        self.ends: list[
            dict[int, Tensor]
        ] = []  # per step: environment -> the state after its last decision
        self.simulator: TensorSimulator

    def saw(self, simulator: TensorSimulator, action: Tensor, probability: Tensor) -> None:
        """Before a step: actions (B,) are about to be taken, which their policy took with `probability` (B,)."""
        self.simulator, self.layout = simulator, layout_of(simulator)
        instance = simulator.state.env[:, INSTANCE].clone()
        self.steps.append(
            [self._seen(), action.clone(), probability.clone(), simulator.playing, instance]
        )

    def got(self, reward: Tensor) -> None:
        """After the step, before any restart: rewards (B,)."""
        simulator, step = self.simulator, self.steps[-1]
        over = ~simulator.playing & step[3]
        step += [reward.clone(), over, simulator.truncated & over]
        final = self._seen() if over.any() else step[0]
        self.ends.append({b: final[b] for b in over.nonzero().flatten().tolist()})

    def episodes(self, name: str) -> Episodes:
        """What came to its end, by environment, then by time."""
        columns = [torch.stack(column).cpu().numpy() for column in zip(*self.steps, strict=True)]
        observation, action, probability, playing, instance, reward, over, truncated = columns
        spans = []  # environment, first step, last step
        for b in range(over.shape[1]):
            last = np.flatnonzero(over[:, b])
            first = [
                int(np.flatnonzero(playing[start : end + 1, b])[0]) + start
                for start, end in _between(last)
            ]
            spans += [(b, start, int(end)) for start, end in zip(first, last, strict=True)]
        if not spans:
            raise UserError(f"logs {name}: no episode came to its end; record more decisions")

        def cut(column: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([column[start : end + 1, b] for b, start, end in spans])

        states = [
            np.concatenate([observation[start : end + 1, b], self.ends[end][b].cpu().numpy()[None]])
            for b, start, end in spans
        ]
        hashes = [one.hash() for one in self.simulator.instances]
        return Episodes(
            name, self.layout, self.simulator.setting.objective,
            length=np.array([end - start + 1 for _, start, end in spans]),
            observation=np.concatenate(states), action=cut(action), reward=cut(reward).astype(np.float64),
            terminated=cut(over & ~truncated), truncated=cut(truncated), probability=cut(probability).astype(np.float64),
            instance=tuple(hashes[int(instance[start, b])] for b, start, _ in spans),
            behaviour=(self.behaviour,) * len(spans),
        )  # fmt: skip

    def _seen(self) -> Tensor:
        return self.layout.flat(from_simulator(self.simulator), return_scale(self.simulator))


def _between(last: Ints) -> list[tuple[int, int]]:
    """(first step that may belong to it, last step) of each episode of one environment."""
    return [(0 if i == 0 else int(last[i - 1]) + 1, int(end)) for i, end in enumerate(last)]
