"""Dispatch rules that order the queue: a key per task, a choice of the agent, skipping or blocking.

The arrived task with the lowest key is the head of the queue; equal keys go by (release, index).
The agent is the legal one on which the head completes earliest by the visible durations, then the
one with the least leftover capacity (best fit), then the one with the lowest index.

A rule that skips starts the task with the lowest key that has a legal agent, and waits only if no
pair is legal. A rule that blocks waits for its head where it may. In commit mode every arrived task
has legal agents, so the head is committed. With `budget` sharing the durations are costs, and a
rule may reach a dead end.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.contracts import Policy
from bench.observation import Observation
from bench.queue_order import QueueOrder
from solvers.dispatch.quantities import (
    Floats,
    best_agent,
    processors,
    requested_seconds,
    waiting_seconds,
)
from solvers.dispatch.rule import Rule

if TYPE_CHECKING:  # rules do not need torch
    from torch import Tensor

    from bench.simulator.view import BatchView


# what a class may define to decide otherwise than its base class
DECIDING = frozenset({"act", "pair", "priority", "utility_seconds", "divisor", "factor"})


class Random(Policy):
    """Uniform over all legal actions, `wait` included.

    Its mean is the zero of the score (bench/docs/problem.md section 7).
    """

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return a legal flat action."""
        legal = np.flatnonzero(observation.mask)
        return int(legal[rng.integers(len(legal))])

    def distribution(self, view: BatchView) -> Tensor:
        """Return the probabilities of the actions, shape (B, K * M + 1)."""
        return view.mask / view.mask.sum(dim=1, keepdim=True).clamp(min=1)


class QueueRule(Rule):
    """A rule that starts tasks by ascending `priority`.

    Parameters
    ----------
    skip
        True: a task that fits may overtake the head of the queue. False: no task overtakes it while
        `wait` is legal.
    """

    def __init__(self, skip: bool = True) -> None:
        self.skip = skip

    # whether `priority` depends on the task alone (`WaitingRule`: and on how long it has waited);
    # a subclass that decides otherwise is not static unless it says so
    static: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "static" not in vars(cls) and not DECIDING.isdisjoint(vars(cls)):
            cls.static = False

    def queue_order(self) -> QueueOrder | None:
        """Return the order of a static rule."""
        return QueueOrder(self.priority, self.skip) if self.static else None

    @abstractmethod
    def priority(self, observation: Observation) -> Floats:
        """Return the key of each task, shape (P,), lowest first."""

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """Return the task with the lowest key that may start, on its best agent; None to wait."""
        candidates = np.flatnonzero(observation.legal.any(axis=1))
        key = self.priority(observation)
        blocked = not self.skip and observation.mask[-1] and key.argmin() not in candidates
        if blocked or not len(candidates):
            return None
        position = int(candidates[key[candidates].argmin()])
        return position, best_agent(observation, position)


class FIFO(QueueRule):
    """First in, first out (FCFS): key r_j. With `skip: false` it has head-of-line blocking."""

    static = True

    def priority(self, observation: Observation) -> Floats:
        """Return r_j."""
        return observation.release.astype(float)


class SJF(QueueRule):
    """Shortest job first: key p_j, the shortest visible duration.

    Smith 1956, doi:10.1002/nav.3800030106, with unit weights.
    """

    static = True

    def priority(self, observation: Observation) -> Floats:
        """Return p_j."""
        return requested_seconds(observation)


class LJF(QueueRule):
    """Longest job first: key -p_j (Graham's LPT, 1969, doi:10.1137/0117039)."""

    static = True

    def priority(self, observation: Observation) -> Floats:
        """Return -p_j."""
        return -requested_seconds(observation)


class WSPT(QueueRule):
    """Weighted shortest processing time: key p_j / w_j, tasks of weight 0 last.

    Smith 1956, doi:10.1002/nav.3800030106.
    """

    static = True

    def priority(self, observation: Observation) -> Floats:
        """Return p_j / w_j."""
        with np.errstate(divide="ignore"):
            return requested_seconds(observation) / observation.weight


class EDF(QueueRule):
    """Earliest deadline first: key d_j; FIFO in instances without due dates.

    Liu and Layland 1973, doi:10.1145/321738.321743.
    """

    static = True

    def priority(self, observation: Observation) -> Floats:
        """Return d_j."""
        return (observation.release if observation.due is None else observation.due).astype(float)


class WaitingRule(QueueRule):
    """A rule by the waiting time: key -(wait_j + offset) / divisor_j * factor_j, in seconds.

    Equal quotients of integers are equal floats, and go by (release, index).
    """

    offset_seconds: ClassVar[float] = 0.0

    @abstractmethod
    def divisor(self, observation: Observation) -> Floats:
        """Return (P,) what the waiting time of each task is divided by."""

    def factor(self, observation: Observation) -> Floats:
        """Return (P,) what the quotient is multiplied by: 1."""
        return np.ones(len(observation.release))

    def utility_seconds(self, observation: Observation) -> Floats:
        """Return the waiting time of each task in seconds, (P,)."""
        return waiting_seconds(observation)

    def priority(self, observation: Observation) -> Floats:
        """Return -(wait_j + offset) / divisor_j * factor_j."""
        waited = self.utility_seconds(observation) + self.offset_seconds
        return -(waited / self.divisor(observation)) * self.factor(observation)

    def queue_order(self) -> QueueOrder | None:
        """Return divisors and factors of the keys, where the class defines the keys by them."""
        if not self.static:
            return None

        def values(observation: Observation) -> Floats:
            return np.stack([self.divisor(observation), self.factor(observation)], axis=1)

        return QueueOrder(values, self.skip, True, self.offset_seconds)


class HRRN(WaitingRule):
    """Highest response ratio next: (wait_j + p_j) / p_j, which has the order of wait_j / p_j.

    Brinch Hansen, IFIP Congress 1971.
    """

    static = True

    def divisor(self, observation: Observation) -> Floats:
        """Return p_j."""
        return requested_seconds(observation)


class PublishableRule(WaitingRule):
    """A rule of RLScheduler, which has another waiting time in the code of its publication.

    Parameters
    ----------
    published
        True: compute the waiting time as the code of RLScheduler does (Zhang et al., SC 2020,
        doi:10.1109/SC41405.2020.00035). There it is scheduled minus submit time while the scheduled
        time still has its initial value -1, so it is -1 - r_j seconds and never grows. That form
        only reproduces published results and is no baseline.
    skip
        See `QueueRule`.
    """

    def __init__(self, published: bool = False, skip: bool = True) -> None:
        super().__init__(skip)
        self.published = published
        self.baseline = not published

    def queue_order(self) -> QueueOrder | None:
        """Return what the keys are made of; as published, the keys, which never change."""
        if self.static and self.published:
            return QueueOrder(self.priority, self.skip)
        return super().queue_order()

    def utility_seconds(self, observation: Observation) -> Floats:
        """Return the waiting time of each task in seconds, (P,)."""
        if self.published:
            return -1 - observation.release * observation.tick_seconds
        return super().utility_seconds(observation)


class WFP3(PublishableRule):
    """Utility (wait_j / p_j)^3 n_j with n_j processors; the key is minus its cube root.

    Tang et al., CLUSTER 2009, doi:10.1109/CLUSTR.2009.5289206.
    """

    static = True

    def divisor(self, observation: Observation) -> Floats:
        """Return p_j."""
        return requested_seconds(observation)

    def factor(self, observation: Observation) -> Floats:
        """Return n_j^(1/3)."""
        return np.cbrt(processors(observation))


class UNICEP(PublishableRule):
    """Key -wait_j / (log2(n_j) p_j) with n_j processors.

    Tang et al., CLUSTER 2009, doi:10.1109/CLUSTR.2009.5289206. The 1e-15 added to the wait and to
    n_j are those of RLScheduler; with them a task on one processor goes (almost) first.
    """

    static = True
    offset_seconds = 1e-15

    def divisor(self, observation: Observation) -> Floats:
        """Return log2(n_j + 1e-15) p_j."""
        return np.log2(processors(observation) + 1e-15) * requested_seconds(observation)


class F1(QueueRule):
    """Key log10(p_j) n_j + 870 log10(r_j), in seconds and processors.

    A release that is not positive counts as 0.1 s. The coefficients were found by regression on
    simulated queues (Carastan-Santos and de Camargo, SC 2017, doi:10.1145/3126908.3126955).
    """

    static = True

    def priority(self, observation: Observation) -> Floats:
        """Return log10(p_j) n_j + 870 log10(r_j)."""
        submit = observation.release * observation.tick_seconds
        submit = np.where(submit > 0, submit, 0.1)
        return np.log10(requested_seconds(observation)) * processors(observation) + 870 * np.log10(
            submit
        )


class DRF(QueueRule):
    """Dominant resource fairness: the tenant with the lowest dominant share first.

    The dominant share of a tenant is the largest fraction, over resources, of all capacity that its
    running tasks hold (Ghodsi et al., NSDI 2011, algorithm 1, equal weights). Tasks of one tenant,
    tenants of equal shares, and instances without tenants go by (release, index).
    """

    def priority(self, observation: Observation) -> Floats:
        """Return the dominant share of the tenant of j."""
        if observation.tenant is None or observation.running_tenant is None:
            return observation.release.astype(float)
        # the tenants that are visible, and the row of each task: of the P in the queue, then of
        # the Q running ones
        everyone = np.concatenate([observation.tenant, observation.running_tenant])
        tenants, row = np.unique(everyone, return_inverse=True)
        queued = len(observation.tenant)
        held = np.zeros((len(tenants), observation.capacity.shape[1]))
        np.add.at(held, row[queued:], observation.running_demand)
        share = held / np.maximum(observation.capacity.sum(axis=0), 1)
        return share.max(axis=1, initial=0.0)[row[:queued]]
