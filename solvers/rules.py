"""Dispatch rules that order the queue: a priority key per task, an agent choice, and skipping or blocking.

The arrived task with the lowest key is the head; equal keys go by (release, index). The agent is the legal one on which the
head completes earliest by the visible durations, then the one with the least leftover capacity (best fit), then the lowest
index. A rule that skips gives way to the best-keyed task that has a legal agent, and waits only where no pair is legal. A rule
that blocks waits for its head where it may. In commit mode every arrived task has legal agents, so the head is committed; with
`budget` sharing the durations are costs, and a rule may reach a dead end.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from bench.observation import Observation
from solvers.dispatch.quantities import Floats, best_agent, processors, requested, waited
from solvers.dispatch.rule import Rule

if TYPE_CHECKING:  # rules do without torch
    from torch import Tensor

    from bench.simulator.view import View


class Random:
    """Uniform over all legal actions, `wait` included: the zero of the score (SPEC section 7)."""

    observe = "arrived"

    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """A legal flat action."""
        legal = np.flatnonzero(observation.mask)
        return int(legal[rng.integers(len(legal))])

    def distribution(self, view: View) -> Tensor:
        """(B, K * M + 1) probabilities."""
        return view.mask / view.mask.sum(dim=1, keepdim=True).clamp(min=1)


class QueueRule(Rule):
    """Serve tasks by ascending `priority`."""

    def __init__(self, skip: bool = True) -> None:
        self.skip = skip  # False: nothing overtakes the head of the queue while `wait` is legal

    @abstractmethod
    def priority(self, observation: Observation) -> Floats:
        """(P,) key of each task, lowest first."""

    def pair(self, observation: Observation) -> tuple[int, int] | None:
        """The best-keyed task that may start, on its best agent."""
        candidates = np.flatnonzero(observation.legal.any(axis=1))
        key = self.priority(observation)
        blocked = not self.skip and observation.mask[-1] and key.argmin() not in candidates
        if blocked or not len(candidates):
            return None
        position = int(candidates[key[candidates].argmin()])
        return position, best_agent(observation, position)


class FIFO(QueueRule):
    """First in, first out (FCFS): key r_j. Blocking (`skip: false`) is the textbook's head-of-line form."""

    def priority(self, observation: Observation) -> Floats:
        """r_j."""
        return observation.release.astype(float)


class SJF(QueueRule):
    """Shortest job first: key p_j, the shortest visible duration (Smith 1956, doi:10.1002/nav.3800030106, unit weights)."""

    def priority(self, observation: Observation) -> Floats:
        """p_j."""
        return requested(observation)


class LJF(QueueRule):
    """Longest job first: key -p_j (Graham's LPT, 1969, doi:10.1137/0117039)."""

    def priority(self, observation: Observation) -> Floats:
        """-p_j."""
        return -requested(observation)


class WSPT(QueueRule):
    """Weighted shortest processing time: key p_j / w_j, weight 0 last (Smith 1956, doi:10.1002/nav.3800030106)."""

    def priority(self, observation: Observation) -> Floats:
        """p_j / w_j."""
        with np.errstate(divide="ignore"):
            return requested(observation) / observation.weight


class EDF(QueueRule):
    """Earliest deadline first: key d_j; FIFO where there are no due dates (Liu and Layland 1973, doi:10.1145/321738.321743)."""

    def priority(self, observation: Observation) -> Floats:
        """d_j."""
        return (observation.release if observation.due is None else observation.due).astype(float)


class HRRN(QueueRule):
    """Highest response ratio next: key -(wait_j + p_j) / p_j (Brinch Hansen, IFIP Congress 1971)."""

    def priority(self, observation: Observation) -> Floats:
        """-(wait_j + p_j) / p_j."""
        return -(waited(observation) / requested(observation) + 1)


class _WaitUtility(QueueRule):
    """A utility that grows with the wait.

    `published` takes the wait as RLScheduler's code does (Zhang et al., SC 2020, doi:10.1109/SC41405.2020.00035): scheduled
    minus submit time while the scheduled time still is its start value -1, so it is -1 - r_j seconds and never grows.
    """

    def __init__(self, published: bool = False, skip: bool = True) -> None:
        super().__init__(skip)
        self.published = published

    def wait_seconds(self, observation: Observation) -> Floats:
        """(P,) seconds."""
        return (
            -1 - observation.release * observation.tick_seconds
            if self.published
            else waited(observation)
        )


class WFP3(_WaitUtility):
    """Key -(wait_j / p_j)^3 n_j with n_j processors (Tang et al., CLUSTER 2009, doi:10.1109/CLUSTR.2009.5289206)."""

    def priority(self, observation: Observation) -> Floats:
        """-(wait_j / p_j)^3 n_j."""
        return -((self.wait_seconds(observation) / requested(observation)) ** 3) * processors(
            observation
        )


class UNICEP(_WaitUtility):
    """Key -wait_j / (log2(n_j) p_j), n_j processors (Tang et al., CLUSTER 2009, doi:10.1109/CLUSTR.2009.5289206).

    The 1e-15 beside wait and n_j are RLScheduler's; with them a task on one processor goes (almost) first.
    """

    def priority(self, observation: Observation) -> Floats:
        """-(wait_j + 1e-15) / (log2(n_j + 1e-15) p_j)."""
        work = np.log2(processors(observation) + 1e-15) * requested(observation)
        return -(self.wait_seconds(observation) + 1e-15) / work


class F1(QueueRule):
    """Key log10(p_j) n_j + 870 log10(r_j), seconds and processors, 0.1 for an argument that is not positive.

    Found by regression on simulated queues (Carastan-Santos and de Camargo, SC 2017, doi:10.1145/3126908.3126955).
    """

    def priority(self, observation: Observation) -> Floats:
        """log10(p_j) n_j + 870 log10(r_j)."""
        submit = observation.release * observation.tick_seconds
        submit = np.where(submit > 0, submit, 0.1)
        return np.log10(requested(observation)) * processors(observation) + 870 * np.log10(submit)


class DRF(QueueRule):
    """Dominant resource fairness: the tenant with the lowest dominant share first, FIFO within it and without tenants.

    A tenant's dominant share is the largest share, over resources, of all capacity that its running tasks hold (Ghodsi et al.,
    NSDI 2011, algorithm 1, equal weights). Equal shares go by (release, index) of the tasks.
    """

    def priority(self, observation: Observation) -> Floats:
        """The dominant share of j's tenant."""
        if observation.tenant is None or observation.running_tenant is None:
            return observation.release.astype(float)
        held = np.zeros(
            (
                1 + max(observation.tenant.max(), observation.running_tenant.max(initial=0)),
                len(observation.free[0]),
            )
        )
        np.add.at(held, observation.running_tenant, observation.running_demand)
        share = (held / np.maximum(observation.capacity.sum(axis=0), 1)).max(axis=1)
        return share[observation.tenant]
