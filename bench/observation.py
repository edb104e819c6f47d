"""What a policy observes at one decision: the queue, the agents and the running tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.instance import Ints


@dataclass(frozen=True, eq=False)
class Observation:
    """One decision with P observed tasks, in order of (release, index), and Q running tasks.

    With `observe: arrived` no observed task lies in the future, and nothing here depends on N, on a
    future arrival, or on a duration other than the visible one.
    """

    time: int  # current tick
    tick_seconds: float  # seconds per tick
    # observed tasks: arrived and not started; with `observe: all` the unreleased ones follow
    release: Ints  # (P,) tick
    duration: Ints  # (P, T) visible ticks (estimates with `observe: arrived`), -1 = not eligible
    demand: Ints  # (P, T, R) units
    weight: Ints  # (P,)
    due: Ints | None  # (P,) tick
    tenant: Ints | None  # (P,)
    kind: Ints  # (P,) index into `bench.instance.KINDS`
    # agents
    agent_type: Ints  # (M,)
    capacity: Ints  # (M, R) units
    free: Ints  # (M, R) units free now
    up: NDArray[np.bool_]  # (M,) not in an outage
    next_outage: Ints  # (M,) start tick of the next announced outage; 2**61 - 1 if none is known
    # running tasks, in order of their starts
    running_agent: Ints  # (Q,)
    running_end: Ints  # (Q,) visible end, tick
    running_demand: Ints  # (Q, R) units
    running_tenant: Ints | None  # (Q,)
    tenant_free: Ints | None  # (U, R) units of quota left
    # legal actions
    mask: NDArray[np.bool_]  # (P * M + 1,) flat k * M + a; the last one is `wait`

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
        """(P, M) the legal (task, agent) pairs, without `wait`."""
        return self.mask[:-1].reshape(len(self.release), self.n_agents)

    @property
    def pair_duration(self) -> Ints:
        """(P, M) visible ticks of each task on each agent, -1 = not eligible."""
        return self.duration[:, self.agent_type]

    def flat(self, position: int, agent: int) -> int:
        """Return the flat index of (queue position, agent)."""
        return position * self.n_agents + agent
