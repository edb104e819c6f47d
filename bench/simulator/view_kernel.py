"""What networks observe, written by compiled code: the columns of a `BatchView`.

The same source serves the CPU and, as device functions, a GPU (see `bench.simulator.kernel`). `v`
is a `bench.simulator.view.BatchView` of arrays; the other names are those of `kernel`. With
`clairvoyant` it is what a policy observes that knows the future, except the mask: it remains that
of the policy that plays.
"""

from __future__ import annotations

import numpy as np

from bench.compiled import compiled
from bench.simulator.kernel import inlined_entry_function, inlined_function
from bench.simulator.tables import (
    AGENT, CAPACITY, DEMAND, DUE, DURATION, END, FREE, INSTANCE, KIND, LAST_END, N_PENDING,
    N_RUNNING, N_TASKS, NEVER, NEXT_ARRIVAL, NEXT_END, NEXT_OUTAGE, QUOTA_LEFT, RELEASE,
    RUNNING_TASKS, TENANT, TIME, TYPE, UP, VISIBLE, WEIGHT,
)  # fmt: skip


@inlined_function
def shown_task(t, s, b, k, clairvoyant):
    """Return the task at position k of the window, -1 where it is padding.

    With `clairvoyant` future arrivals follow the tasks that wait.
    """
    future = s.env[b, NEXT_ARRIVAL] + k - s.env[b, N_PENDING]
    if not clairvoyant or k < s.env[b, N_PENDING]:
        return s.window[b, k]
    return future if future < t.size[s.env[b, INSTANCE], N_TASKS] else -1


@inlined_entry_function
def observe_task(t, s, v, b, k, clairvoyant):
    """Write what is observed of the task at position k of the window; padding shows task 0."""
    i = np.uint64(s.env[b, INSTANCE])
    shown = shown_task(t, s, b, k, clairvoyant)
    j = max(shown, 0)
    v.shown[b, k] = shown >= 0
    v.release[b, k] = t.task[i, j, RELEASE] - s.env[b, TIME]
    v.due[b, k] = t.task[i, j, DUE] - s.env[b, TIME]
    v.weight[b, k] = t.task[i, j, WEIGHT]
    v.kind[b, k] = t.task[i, j, KIND]
    for r in range(v.quota_left.shape[2]):
        if s.tenants.shape[1] > 0:
            v.quota_left[b, k, r] = s.tenants[b, t.task[i, j, TENANT], QUOTA_LEFT + r]
        else:
            v.quota_left[b, k, r] = NEVER
    m = t.agents.shape[1]
    for a in range(m):
        agent_type = t.agents[i, a, TYPE]
        v.duration[b, k, a] = t.task_on_type[i, j, agent_type, DURATION if clairvoyant else VISIBLE]
        for r in range(v.demand.shape[3]):
            v.demand[b, k, a, r] = t.task_on_type[i, j, agent_type, DEMAND + r]
        v.mask[b, k * m + a] = s.mask[b, k * m + a] == 1


@inlined_entry_function
def observe_agent(t, s, v, b, a, clairvoyant):
    """Write what is observed of agent a; the first one also writes whether `wait` is legal."""
    i = np.uint64(s.env[b, INSTANCE])
    for r in range(v.capacity.shape[2]):
        v.capacity[b, a, r] = t.agents[i, a, CAPACITY + r]
        v.free[b, a, r] = s.agents[b, a, FREE + r]
    now = s.env[b, TIME]
    v.up[b, a] = s.agents[b, a, UP]
    v.next_outage[b, a] = s.agents[b, a, NEXT_OUTAGE] - now
    v.next_end[b, a] = s.agents[b, a, NEXT_END] - now
    v.last_end[b, a] = s.agents[b, a, LAST_END] - now
    if clairvoyant:
        first = NEVER
        last = now
        for k in range(s.env[b, N_RUNNING]):
            j = s.task[b, RUNNING_TASKS, k]
            if s.task[b, AGENT, j] == a:
                first = min(first, s.task[b, END, j])
                last = max(last, s.task[b, END, j])
        v.next_end[b, a] = first - now if first < NEVER else 0
        v.last_end[b, a] = last - now
    if a == 0:
        v.mask[b, s.mask.shape[1] - 1] = s.mask[b, s.mask.shape[1] - 1] == 1


@compiled(_nrt=False)
def observe(t, s, v, clairvoyant):
    """Write what is observed in every environment."""
    for b in range(s.window.shape[0]):
        for k in range(s.window.shape[1]):
            observe_task(t, s, v, np.uint64(b), k, clairvoyant)
        for a in range(t.agents.shape[1]):
            observe_agent(t, s, v, np.uint64(b), a, clairvoyant)
