"""The inputs of the networks: unit-free features of tasks, agents and (task, agent) pairs.

They are computed from a `BatchView`, so in the same way from the simulator's arrays, from one
`Observation` and from logged observations. Times are divided by tau, the mean over the tasks shown
of their shortest visible duration, demands by capacities, and weights by their mean. So no feature
has a unit, and none uses information that an online policy may not have.

| task feature | |
|---|---|
| 0, 1 | shortest duration over the agents that can run the task, and its log |
| 2 | mean duration over these agents, over the shortest |
| 3, 4 | weight; log of 1 + weight per shortest duration |
| 5, 6 | ticks until the release; whether it has arrived |
| 7, 8 | slack to the due date; whether it is negative |
| 9 | smallest dominant share of the cluster's capacity |
| 10, 11 | shares of the agents that may start it now, and that can run it |
| 12... | kind, one-hot |

| agent feature | |
|---|---|
| 0, 1, 2 | smallest, mean and largest free share of its resources |
| 3 | whether it is up |
| 4, 5, 6 | ticks until the first and the last running task ends, and until the next outage |
| 7 | mean over the tasks that it can run of its duration over the shortest |

| pair feature | |
|---|---|
| 0, 1 | duration; log of the duration over the shortest |
| 2, 3 | whether the agent can run the task, and may start it now |
| 4, 5 | largest share of a capacity that it occupies; smallest share that it would leave |
| 6, 15 | ticks from the release, and from now, to the earliest end |
| 7 | log of 1 + Smith's index w_j / p_ij |
| 8, 9 | log of the index over the best one of another task on the agent; among arrived tasks |
| 10, 11 | the same per occupied share |
| 12, 14 | duration minus the task's earliest end; minus its shortest duration that may start |
| 13 | largest share of its tenant's quota that it takes |

The columns of `load` estimate the cost that remains, from the tasks shown:

ALONE
    Sum over the tasks of weight times the ticks from now (or from the release, if later) to the
    completion, if each task were alone with the tasks that run now; weighted ticks.
WAITED
    Sum over the tasks of weight times the ticks since their release; weighted ticks.
RUNNING
    Sum over the agents of the ticks until their last running task ends, times the mean weight.
TICKS
    tau times the square root of the number of tasks; ticks.
TASKS
    The number of tasks shown.

Shapes: B decisions, K tasks shown, M agents, R resources.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bench.simulator.view import BatchView
from solvers.networks.kernels.features import (
    AGENT_FEATURES,
    ALONE,
    CAN_RUN,
    PAIR_FEATURES,
    RUNNING,
    TASK_FEATURES,
    TASKS,
    TICKS,
    WAITED,
    FeatureArrays,
    write_features,
)

__all__ = [
    "AGENT_FEATURES",
    "ALONE",
    "CAN_RUN",
    "PAIR_FEATURES",
    "RUNNING",
    "TASKS",
    "TASK_FEATURES",
    "TICKS",
    "WAITED",
    "Features",
    "empty_features",
    "featurize",
]


class Features(NamedTuple):
    """Inputs of the networks: float32 tensors and bool masks."""

    task: Tensor  # (B, K, TASK_FEATURES)
    agent: Tensor  # (B, M, AGENT_FEATURES)
    pair: Tensor  # (B, K, M, PAIR_FEATURES)
    shown: Tensor  # (B, K) bool, false = padding
    present: Tensor  # (B, M) bool, false = padding
    mask: Tensor  # (B, K * M + 1) bool, true = legal action
    load: Tensor  # (B, 5) remaining cost, the scale of predicted values: columns ALONE to TASKS

    def at(self, rows: Tensor) -> Features:
        """Return the features of the decisions `rows` (n,)."""
        return Features(*(column.index_select(0, rows) for column in self))


def featurize(view: BatchView) -> Features:
    """Return the features of the B decisions of `view`, on its device."""
    view = view.canonical()
    arrays = empty_features(view)
    if view.shown.is_cuda:
        # numba.cuda is loaded only where it is used
        from solvers.networks.kernels.features_cuda import write_features as write_on_gpu

        write_on_gpu(view, arrays)
    else:
        write_features(
            BatchView._make(column.numpy() for column in view),
            FeatureArrays._make(column.numpy() for column in arrays),
        )
    return Features(
        task=arrays.task,
        agent=arrays.agent,
        pair=arrays.pair,
        shown=view.shown,
        present=arrays.present,
        mask=view.mask,
        load=arrays.load,
    )


def empty_features(view: BatchView) -> FeatureArrays:
    """Return arrays for the features of `view`, as tensors on its device."""
    b, k, m, r = view.demand.shape
    device = view.demand.device

    def floats(*shape: int) -> Tensor:
        return torch.empty((b, *shape), dtype=torch.float32, device=device)

    return FeatureArrays(
        task=floats(k, TASK_FEATURES),
        agent=floats(m, AGENT_FEATURES),
        pair=floats(k, m, PAIR_FEATURES),
        present=torch.empty((b, m), dtype=torch.bool, device=device),
        load=floats(5),
        of_task=floats(k, 6),
        of_decision=floats(3 + r),
    )
