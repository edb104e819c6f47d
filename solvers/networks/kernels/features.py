"""The features of networks in compiled code; `solvers.networks.features` says what each one is.

The same source serves the CPU and, as device functions, a GPU. Five functions compute the features
of a decision, in this order; each reads what those before it wrote:

| function | called for | writes |
|---|---|---|
| `sum_agents` | every decision | which agents are present, how many, the capacity of all |
| `summarise_task` | every task | what the features of other tasks and of its pairs need of it |
| `sum_tasks` | every decision | tau, the mean weight, the load |
| `write_task` | every task | the features of the task and of its pairs, except the leads |
| `write_agent` | every agent | the features of the agent, and the leads of its pairs |

Parameter names: `v` is a `bench.simulator.view.BatchView` of arrays, `f` a `FeatureArrays`, `b` a
decision, `k` a task, `a` an agent, `r` a resource. Without resources (R = 0) every agent counts as
if it had one free unit of a resource that no task needs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from bench.compiled import compiled
from bench.instance import KINDS
from bench.simulator.kernel import inlined_entry_function, inlined_function

TASK_FEATURES = 12 + len(KINDS)
AGENT_FEATURES = 8
PAIR_FEATURES = 16
CAN_RUN = 2  # index of the pair feature: eligible, and the capacity covers the demand
ALONE, WAITED, RUNNING, TICKS, TASKS = range(5)  # columns of Features.load
RATIO_LIMIT = 20.0  # ratios of times are clipped to +-RATIO_LIMIT
LEAD_LIMIT = 5.0
LEAST_INDEX = 1e-6  # the index with which a task without a rival on an agent is compared

# indices of pair features that are used while others are computed
ARRIVED = 6  # of a task
SMITH, PER_AREA = 8, 10  # hold the indices until `write_agent` replaces them by leads

# FeatureArrays.of_task
SHORTEST, ALONE_TICKS, N_RUNNABLE, N_LEGAL, SUM_OF_DURATIONS, DOMINANT_SHARE = range(6)
# FeatureArrays.of_decision; WHOLE + r is the capacity of all agents
TAU, MEAN_WEIGHT, N_PRESENT, WHOLE = range(4)


class FeatureArrays(NamedTuple):
    """What the functions write, as float32 arrays or tensors: columns of `Features`, and notes."""

    task: Any  # (B, K, TASK_FEATURES)
    agent: Any  # (B, M, AGENT_FEATURES)
    pair: Any  # (B, K, M, PAIR_FEATURES)
    present: Any  # (B, M) bool
    load: Any  # (B, 5)
    of_task: Any  # (B, K, 6) SHORTEST ... DOMINANT_SHARE
    of_decision: Any  # (B, 3 + R) TAU ... WHOLE + r


@inlined_function
def clipped(ratio):
    """Return `ratio` clipped to +-RATIO_LIMIT."""
    return min(max(ratio, -RATIO_LIMIT), RATIO_LIMIT)


@inlined_function
def runs_on(v, f, b, k, a):
    """Return whether k is shown, eligible on a, and a's capacity covers its demand."""
    if not v.shown[b, k] or not f.present[b, a] or v.duration[b, k, a] <= 0:
        return False
    covered = True
    for r in range(v.demand.shape[3]):
        covered = covered and v.demand[b, k, a, r] <= v.capacity[b, a, r]
    return covered


@inlined_function
def share(demand, capacity):
    """Return demand / capacity, at most 2; a positive demand without capacity counts as 2."""
    if capacity > 0:
        return min(demand / max(capacity, 1), 2.0)
    return 2.0 if demand > 0 else 0.0


@inlined_entry_function
def sum_agents(v, f, b):
    """Write which agents are present (not padding), how many, and the capacity of all."""
    count = 0
    for a in range(v.capacity.shape[1]):
        f.present[b, a] = v.next_outage[b, a] > 0
        count += f.present[b, a]
    f.of_decision[b, N_PRESENT] = max(count, 1)
    for r in range(v.capacity.shape[2]):
        whole = 0
        for a in range(v.capacity.shape[1]):
            whole += v.capacity[b, a, r]
        f.of_decision[b, WHOLE + r] = max(whole, 1)


@inlined_entry_function
def summarise_task(v, f, b, k):
    """Write `of_task`: over the agents that can run k, and how many can and may start it now.

    ALONE_TICKS counts from now or the release to its completion if k were alone with the tasks that
    run now.
    """
    released = max(v.release[b, k], 0)
    shortest = math.inf
    first_end = math.inf
    total = 0.0
    runnable = 0
    legal = 0
    least_share = 1.0
    for a in range(v.capacity.shape[1]):
        legal += v.mask[b, k * v.capacity.shape[1] + a]
        if not runs_on(v, f, b, k, a):
            continue
        fits = v.up[b, a] > 0
        dominant = 0.0
        for r in range(v.demand.shape[3]):
            fits = fits and v.demand[b, k, a, r] <= v.free[b, a, r]
            dominant = max(dominant, v.demand[b, k, a, r] / f.of_decision[b, WHOLE + r])
        duration = v.duration[b, k, a]
        start = released if fits else max(released, v.next_end[b, a])
        shortest = min(shortest, duration)
        first_end = min(first_end, start + duration)
        least_share = min(least_share, dominant)
        total += duration
        runnable += 1
    f.of_task[b, k, SHORTEST] = shortest if runnable else 1.0
    f.of_task[b, k, ALONE_TICKS] = first_end - released if runnable else 0.0
    f.of_task[b, k, N_RUNNABLE] = runnable
    f.of_task[b, k, N_LEGAL] = legal
    f.of_task[b, k, SUM_OF_DURATIONS] = total
    f.of_task[b, k, DOMINANT_SHARE] = least_share


@inlined_entry_function
def sum_tasks(v, f, b):
    """Write tau, the mean weight and the load of the decision."""
    count = 0
    shortest = 0.0
    weight = 0.0
    alone = 0.0
    waited = 0.0
    for k in range(v.shown.shape[1]):
        if v.shown[b, k]:
            count += 1
            shortest += f.of_task[b, k, SHORTEST]
            weight += v.weight[b, k]
            alone += float(v.weight[b, k]) * f.of_task[b, k, ALONE_TICKS]
            waited += float(v.weight[b, k]) * max(-v.release[b, k], 0)
    count = max(count, 1)
    tau = max(shortest / count, 1.0)
    mean_weight = max(weight / count, 1e-6)
    running = 0.0
    for a in range(v.capacity.shape[1]):
        if f.present[b, a]:
            running += v.last_end[b, a]
    f.of_decision[b, TAU] = tau
    f.of_decision[b, MEAN_WEIGHT] = mean_weight
    f.load[b, ALONE] = alone
    f.load[b, WAITED] = waited
    f.load[b, RUNNING] = mean_weight * running
    f.load[b, TICKS] = tau * math.sqrt(count)
    f.load[b, TASKS] = count


@inlined_entry_function
def write_task(v, f, b, k):
    """Write the features of k, and those of its pairs except the leads; zeros where it is padding.

    The places of two leads hold Smith's index w_j / p_ij in units of 1 / tau, and the same per
    occupied share of the agent.
    """
    m = v.capacity.shape[1]
    if not v.shown[b, k]:
        for column in range(f.task.shape[2]):
            f.task[b, k, column] = 0.0
        for a in range(m):
            for column in range(f.pair.shape[3]):
                f.pair[b, k, a, column] = 0.0
        return
    tau = float(f.of_decision[b, TAU])
    agents = float(f.of_decision[b, N_PRESENT])
    shortest = float(f.of_task[b, k, SHORTEST])
    runnable = float(f.of_task[b, k, N_RUNNABLE])
    weight = v.weight[b, k] / float(f.of_decision[b, MEAN_WEIGHT])
    release = float(v.release[b, k])
    slack = clipped((v.due[b, k] - shortest) / tau)
    f.task[b, k, 0] = shortest / tau
    f.task[b, k, 1] = math.log(shortest / tau)
    f.task[b, k, 2] = f.of_task[b, k, SUM_OF_DURATIONS] / max(runnable, 1.0) / shortest
    f.task[b, k, 3] = weight
    f.task[b, k, 4] = math.log1p(weight * tau / shortest)
    f.task[b, k, 5] = clipped(release / tau)
    f.task[b, k, ARRIVED] = release <= 0
    f.task[b, k, 7] = slack
    f.task[b, k, 8] = slack < 0
    f.task[b, k, 9] = min(float(f.of_task[b, k, DOMINANT_SHARE]), 1.0)
    f.task[b, k, 10] = f.of_task[b, k, N_LEGAL] / agents
    f.task[b, k, 11] = runnable / agents
    for code in range(len(KINDS)):
        f.task[b, k, 12 + code] = v.kind[b, k] == code

    best_end = math.inf  # over the agents that can run k
    best_duration = math.inf  # over the agents where it may start now
    for a in range(m):
        can_run = runs_on(v, f, b, k, a)
        legal = v.mask[b, k * m + a]
        duration = float(v.duration[b, k, a]) if v.duration[b, k, a] > 0 else shortest
        end = max(release, 0.0 if legal else float(v.next_end[b, a]), 0.0) + duration
        if can_run:
            best_end = min(best_end, end)
        if legal:
            best_duration = min(best_duration, duration)
        occupied = 0.0
        of_quota = 0.0
        left = math.inf if v.demand.shape[3] else 1.0
        for r in range(v.demand.shape[3]):
            demand = float(v.demand[b, k, a, r])
            quota = v.quota_left[b, k, min(r, v.quota_left.shape[2] - 1)]
            occupied = max(occupied, share(demand, v.capacity[b, a, r]))
            of_quota = max(of_quota, share(demand, quota))
            left = min(left, (v.free[b, a, r] - demand) / max(v.capacity[b, a, r], 1))
        smith = weight * tau / max(duration, 1.0) if can_run else 0.0
        f.pair[b, k, a, 0] = clipped(duration / tau)
        f.pair[b, k, a, 1] = clipped(math.log(max(duration, 1.0) / shortest))
        f.pair[b, k, a, CAN_RUN] = can_run
        f.pair[b, k, a, 3] = legal
        f.pair[b, k, a, 4] = occupied
        f.pair[b, k, a, 5] = max(left, -1.0)
        f.pair[b, k, a, 6] = clipped((end - release) / tau)
        f.pair[b, k, a, 7] = math.log1p(smith)
        f.pair[b, k, a, SMITH] = smith
        f.pair[b, k, a, PER_AREA] = smith / max(occupied, 0.05)
        f.pair[b, k, a, 13] = of_quota
        f.pair[b, k, a, 15] = clipped(end / tau)
    for a in range(m):
        duration = float(v.duration[b, k, a]) if v.duration[b, k, a] > 0 else shortest
        f.pair[b, k, a, 12] = clipped((duration - best_end) / tau) if runnable > 0 else 0.0
        f.pair[b, k, a, 14] = (
            clipped((duration - best_duration) / tau) if best_duration < math.inf else 0.0
        )
        if not f.present[b, a]:
            for column in range(f.pair.shape[3]):
                f.pair[b, k, a, column] = 0.0


@inlined_function
def write_leads(f, b, a, column, arrived_only):
    """Replace the indices in a column of the pairs of a by the logs of the tasks' leads.

    The lead is an index over the best index of another task on the agent; a task without a rival is
    compared with an index of 0. With `arrived_only` the indices of other tasks count as 0, and the
    leads are written to the next column.
    """
    best = 0.0
    second = 0.0
    for k in range(f.pair.shape[1]):
        index = f.pair[b, k, a, column]
        if arrived_only and f.task[b, k, ARRIVED] == 0.0:
            index = 0.0
        if index > best:
            second = best
            best = index
        elif index > second:
            second = index
    log_best = math.log(max(best, LEAST_INDEX))
    log_second = math.log(max(second, LEAST_INDEX))
    for k in range(f.pair.shape[1]):
        index = f.pair[b, k, a, column]
        if arrived_only and f.task[b, k, ARRIVED] == 0.0:
            index = 0.0
        lead = math.log(max(index, LEAST_INDEX)) - (log_second if index >= best else log_best)
        f.pair[b, k, a, column + arrived_only] = min(max(lead, -LEAD_LIMIT), LEAD_LIMIT)


@inlined_entry_function
def write_agent(v, f, b, a):
    """Write the features of a and the leads of its pairs; zeros where it is padding."""
    if not f.present[b, a]:
        for column in range(f.agent.shape[2]):
            f.agent[b, a, column] = 0.0
        return
    tau = float(f.of_decision[b, TAU])
    least = math.inf
    most = -math.inf
    total = 0.0
    for r in range(v.capacity.shape[2]):
        free = v.free[b, a, r] / max(v.capacity[b, a, r], 1)
        least = min(least, free)
        most = max(most, free)
        total += free
    slowdown = 0.0
    runnable = 0
    for k in range(v.shown.shape[1]):
        if f.pair[b, k, a, CAN_RUN] != 0.0:
            slowdown += v.duration[b, k, a] / float(f.of_task[b, k, SHORTEST])
            runnable += 1
    n_resources = v.capacity.shape[2]
    f.agent[b, a, 0] = least if n_resources else 1.0
    f.agent[b, a, 1] = total / n_resources if n_resources else 1.0
    f.agent[b, a, 2] = most if n_resources else 1.0
    f.agent[b, a, 3] = v.up[b, a]
    f.agent[b, a, 4] = clipped(v.next_end[b, a] / tau)
    f.agent[b, a, 5] = clipped(v.last_end[b, a] / tau)
    f.agent[b, a, 6] = clipped(v.next_outage[b, a] / tau) / RATIO_LIMIT
    f.agent[b, a, 7] = clipped(slowdown / max(runnable, 1))
    write_leads(f, b, a, SMITH, True)
    write_leads(f, b, a, SMITH, False)
    write_leads(f, b, a, PER_AREA, True)
    write_leads(f, b, a, PER_AREA, False)
    for k in range(v.shown.shape[1]):  # of padding there is no lead
        if not v.shown[b, k]:
            for column in range(SMITH, PER_AREA + 2):
                f.pair[b, k, a, column] = 0.0


@compiled(_nrt=False)
def write_features(v, f):
    """Write the features of every decision."""
    for decision in range(v.shown.shape[0]):
        b = np.uint64(decision)
        sum_agents(v, f, b)
        for k in range(v.shown.shape[1]):
            summarise_task(v, f, b, k)
        sum_tasks(v, f, b)
        for k in range(v.shown.shape[1]):
            write_task(v, f, b, k)
        for a in range(v.capacity.shape[1]):
            write_agent(v, f, b, a)
