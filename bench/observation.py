"""What a policy sees at one decision: the queue, the agents and what is running, in plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints


@dataclass(frozen=True, eq=False)
class Observation:
    """One decision. P tasks are shown in (release, index) order; with `observe: arrived` none of them lies in the future.

    Nothing here reveals N, a future arrival (with `observe: arrived`) or a duration other than the visible one.
    """

    time: int  # current tick
    tick_seconds: float  # seconds per tick
    # tasks shown: arrived and not started; with `observe: all` the unreleased ones follow
    release: Ints  # (P,) tick
    duration: Ints  # (P, T) visible ticks (estimates where `observe: arrived`), -1 = not eligible
    demand: Ints  # (P, T, R)
    weight: Ints  # (P,)
    due: Ints | None  # (P,) tick
    tenant: Ints | None  # (P,)
    kind: Ints  # (P,)
    # agents
    agent_type: Ints  # (M,)
    capacity: Ints  # (M, R)
    free: Ints  # (M, R) units free now
    up: NDArray[np.bool_]  # (M,) not in an outage
    next_outage: Ints  # (M,) start tick of the next announced outage, a tick that never comes (2**61 - 1) where none is known
    # tasks running, in the order they were started
    running_agent: Ints  # (Q,)
    running_end: Ints  # (Q,) visible end, tick
    running_demand: Ints  # (Q, R)
    running_tenant: Ints | None  # (Q,)
    tenant_free: Ints | None  # (U, R) units of quota left
    # legal actions
    mask: NDArray[np.bool_]  # (P * M + 1,) flat k * M + a, last = wait

    @property
    def n_agents(self) -> int:
        """M."""
        return len(self.agent_type)

    @property
    def wait(self) -> int:
        """The flat index of `wait`."""
        return len(self.mask) - 1

    @property
    def legal(self) -> NDArray[np.bool_]:
        """(P, M): the legal (task, agent) pairs, without wait."""
        return self.mask[:-1].reshape(len(self.release), self.n_agents)

    @property
    def pair_duration(self) -> Ints:
        """(P, M) visible ticks of each task on each agent, -1 = not eligible."""
        return self.duration[:, self.agent_type]

    def flat(self, position: int, agent: int) -> int:
        """The flat index of (queue position, agent)."""
        return position * self.n_agents + agent
