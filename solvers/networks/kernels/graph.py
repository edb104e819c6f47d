"""Message passing between tasks and agents, in compiled code for the CPU.

`solvers.networks.graph` says what is computed. Only the pairs that can run, often a third of all,
and the tasks that are shown are computed. Numbers of one pair are worked on while they are in the
processor's cache.

Shapes: B decisions, K tasks and M agents with padding, n tasks shown in all decisions, p pairs that
can run, q legal pairs, F features of a pair, W units. Row b * M + a of an array of agents belongs
to agent a of decision b.

Compilers vectorise an innermost loop only if it uses few arrays: each two, of which one is written,
need a test whether they overlap, and only if it reads no array under a condition. So there are
several loops where one would do, and numbers are read before they are chosen from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bench.compiled import compiled
from solvers.networks.kernels.features import CAN_RUN

# products may be added without rounding in between; the order of sums stays as it is written
kernel = compiled(_nrt=False, nogil=True, fastmath={"contract"})


class GraphArrays(NamedTuple):
    """The tasks that are shown and the pairs of B decisions, as arrays or tensors."""

    task_features: Any  # (n, TASK_FEATURES)
    first_task: Any  # (B + 1,) int64: the tasks of b are first_task[b] to first_task[b + 1] - 1
    position: Any  # (n,) int64 position b * K + k of each task
    pair_features: Any  # (p, F) of the pairs that can run
    pair_task: Any  # (p,) int32 row of the task
    pair_agent: Any  # (p,) int32 row of the agent
    legal_features: Any  # (q, F) of the legal pairs
    legal_task: Any  # (q,) int32
    legal_agent: Any  # (q,) int32
    legal_decision: Any  # (q,) int32
    legal_position: Any  # (q,) int64 position b * K * M + k * M + a of each legal pair
    per_task: Any  # (n,) float32 1 / agents that can run the task, 1 where there are none
    per_agent: Any  # (B * M,) float32 1 / tasks that the agent can run, 1 where there are none


@kernel
def count_graph(shown, pair, mask):
    """Return (n, p, q), the lengths of the arrays that `list_graph` writes.

    Parameters
    ----------
    shown, pair, mask
        (B, K), (B, K, M, F) and (B, K * M + 1), columns of `Features`.
    """
    n = p = q = 0
    for b in range(shown.shape[0]):
        for k in range(shown.shape[1]):
            if shown[b, k]:
                n += 1
                for a in range(pair.shape[2]):
                    p += pair[b, k, a, CAN_RUN] != 0
                    q += mask[b, k * pair.shape[2] + a]
    return n, p, q


@kernel
def list_graph(shown, task, pair, mask, g):
    """Write the tasks and pairs to `g`, a GraphArrays; `task` is (B, K, TASK_FEATURES)."""
    m = pair.shape[2]
    n = p = q = 0
    for row in range(len(g.per_agent)):
        g.per_agent[row] = 0
    for b in range(shown.shape[0]):
        g.first_task[b] = n
        for k in range(shown.shape[1]):
            if not shown[b, k]:
                continue
            runnable = 0
            for a in range(m):
                features = pair[b, k, a]
                if features[CAN_RUN] != 0:
                    for f in range(len(features)):
                        g.pair_features[p, f] = features[f]
                    g.pair_task[p] = n
                    g.pair_agent[p] = b * m + a
                    g.per_agent[b * m + a] += 1
                    runnable += 1
                    p += 1
                if mask[b, k * m + a]:
                    for f in range(len(features)):
                        g.legal_features[q, f] = features[f]
                    g.legal_task[q] = n
                    g.legal_agent[q] = b * m + a
                    g.legal_decision[q] = b
                    g.legal_position[q] = (b * shown.shape[1] + k) * m + a
                    q += 1
            for f in range(task.shape[2]):
                g.task_features[n, f] = task[b, k, f]
            g.position[n] = b * shown.shape[1] + k
            g.per_task[n] = 1 / max(runnable, 1)
            n += 1
    g.first_task[shown.shape[0]] = n
    for row in range(len(g.per_agent)):
        g.per_agent[row] = 1 / max(g.per_agent[row], 1)


@kernel
def aggregate(g, task, agent, task_part, agent_part, message, to_task, to_agent):
    """Complete the messages, and write what tasks and agents receive.

    Parameters
    ----------
    task, agent
        (n, W) and (B * M, W).
    task_part, agent_part
        (n, W) and (B * M, W), summands of the messages.
    message
        (p, W); the other summands, which the messages relu(sum of three) replace.
    to_task, to_agent
        (n, 3, W) and (B * M, 3, W): `task` or `agent`, the mean and the maximum of the messages.
    """
    width = message.shape[1]
    zero = task.dtype.type(0)
    _begin(task, to_task)
    _begin(agent, to_agent)
    for p in range(len(message)):
        n, a = g.pair_task[p], g.pair_agent[p]
        y, x, z = message[p], task_part[n], agent_part[a]
        task_mean, task_max = to_task[n, 1], to_task[n, 2]
        agent_mean, agent_max = to_agent[a, 1], to_agent[a, 2]
        for w in range(width):
            s = y[w] + x[w] + z[w]
            y[w] = s if s > zero else zero
        for w in range(width):
            task_mean[w] += y[w]
        for w in range(width):
            agent_mean[w] += y[w]
        for w in range(width):
            one, other = y[w], task_max[w]
            task_max[w] = one if one > other else other
        for w in range(width):
            one, other = y[w], agent_max[w]
            agent_max[w] = one if one > other else other
    _scale_means(g.per_task, to_task)
    _scale_means(g.per_agent, to_agent)


@kernel
def _begin(x, received):
    """Write x (n, W) and zeros to `received` (n, 3, W)."""
    for n in range(len(x)):
        first, second, third = received[n, 0], received[n, 1], received[n, 2]
        for w in range(x.shape[1]):
            first[w] = x[n, w]
        for w in range(x.shape[1]):
            second[w] = third[w] = 0


@kernel
def _scale_means(factor, received):
    """Multiply received[n, 1] by factor[n], for every n."""
    for n in range(len(received)):
        mean = received[n, 1]
        for w in range(len(mean)):
            mean[w] *= factor[n]


@kernel
def aggregate_backward(
    g,
    message,
    to_task,
    to_agent,
    to_task_gradient,
    to_agent_gradient,
    message_gradient,
    task_part_gradient,
    agent_part_gradient,
):
    """Write the gradients of `message`, `task_part` and `agent_part`, given those of `to_...`.

    The gradients of `task` and `agent` are the first thirds of `to_task_gradient` and
    `to_agent_gradient`. If several messages are the largest one, each gets the gradient of the
    maximum. The last two arrays hold zeros at first.
    """
    width = message.shape[1]
    zero = message.dtype.type(0)
    for p in range(len(message)):
        n, a = g.pair_task[p], g.pair_agent[p]
        per_task, per_agent = g.per_task[n], g.per_agent[a]
        y, dy = message[p], message_gradient[p]
        most, of_mean, of_max = to_task[n, 2], to_task_gradient[n, 1], to_task_gradient[n, 2]
        for w in range(width):
            extra = of_max[w]
            dy[w] = of_mean[w] * per_task + (extra if y[w] == most[w] else zero)
        most, of_mean, of_max = to_agent[a, 2], to_agent_gradient[a, 1], to_agent_gradient[a, 2]
        for w in range(width):
            extra = of_max[w]
            whole = dy[w] + of_mean[w] * per_agent + (extra if y[w] == most[w] else zero)
            dy[w] = whole if y[w] > zero else zero
        of_task, of_agent = task_part_gradient[n], agent_part_gradient[a]
        for w in range(width):
            of_task[w] += dy[w]
        for w in range(width):
            of_agent[w] += dy[w]


@kernel
def combine(g, task_part, agent_part, state_part, hidden):
    """Complete the hidden units of the legal pairs: relu(sum of four).

    Parameters
    ----------
    task_part, agent_part, state_part
        (n, W), (B * M, W) and (B, W).
    hidden
        (q, W); the fourth summands, which the hidden units replace.
    """
    zero = hidden.dtype.type(0)
    for p in range(len(hidden)):
        x, z = task_part[g.legal_task[p]], agent_part[g.legal_agent[p]]
        y, s = hidden[p], state_part[g.legal_decision[p]]
        for w in range(hidden.shape[1]):
            whole = y[w] + x[w] + z[w] + s[w]
            y[w] = whole if whole > zero else zero


@kernel
def combine_backward(g, hidden, gradient, hidden_part, task_part, agent_part, state_part):
    """Write the gradient (q, W) of the summands of `hidden`, and add it to the last three."""
    zero = hidden.dtype.type(0)
    width = hidden.shape[1]
    for p in range(len(hidden)):
        x, z = task_part[g.legal_task[p]], agent_part[g.legal_agent[p]]
        y, dy, s = hidden[p], hidden_part[p], state_part[g.legal_decision[p]]
        for w in range(width):
            whole = gradient[p, w]
            dy[w] = whole if y[w] > zero else zero
        for w in range(width):
            x[w] += dy[w]
        for w in range(width):
            z[w] += dy[w]
        for w in range(width):
            s[w] += dy[w]


@kernel
def pool(g, present, task, agent, pooled):
    """Write (B, 3, W): means and positive maxima of the tasks shown, means of present agents.

    Parameters
    ----------
    present
        (B, M) bool.
    task, agent
        (n, W) and (B * M, W).
    """
    width = task.shape[1]
    for b in range(present.shape[0]):
        task_mean, task_max, agent_mean = pooled[b, 0], pooled[b, 1], pooled[b, 2]
        task_share, agent_share = _shares(g, present, b)
        for w in range(width):
            task_mean[w] = task_max[w] = agent_mean[w] = 0
        for n in range(g.first_task[b], g.first_task[b + 1]):
            x = task[n]
            for w in range(width):
                task_mean[w] += x[w] * task_share
            for w in range(width):
                one, other = x[w], task_max[w]
                task_max[w] = one if one > other else other
        for a in range(present.shape[1]):
            if present[b, a]:
                z = agent[b * present.shape[1] + a]
                for w in range(width):
                    agent_mean[w] += z[w] * agent_share


@kernel
def _shares(g, present, b):
    """Return 1 / tasks that are shown in decision b, and 1 / agents that are present."""
    agents = 0
    for a in range(present.shape[1]):
        agents += present[b, a]
    share = g.per_task.dtype.type(1) / max(g.first_task[b + 1] - g.first_task[b], 1)
    return share, g.per_task.dtype.type(1) / max(agents, 1)


@kernel
def pool_backward(g, present, task, pooled, gradient, share, task_gradient, agent_gradient):
    """Write the gradients of `task` and `agent`, given that of `pooled`.

    Tasks that share the maximum share its gradient. `share` (W,) is memory for notes.
    """
    width = task.shape[1]
    zero, one = task.dtype.type(0), task.dtype.type(1)
    for b in range(present.shape[0]):
        most = pooled[b, 1]
        of_task_mean, of_max, of_agent_mean = gradient[b, 0], gradient[b, 1], gradient[b, 2]
        task_share, agent_share = _shares(g, present, b)
        # no task gets the gradient of a maximum that none exceeds, so it is divided by infinity
        for w in range(width):
            share[w] = zero if most[w] > zero else np.inf
        for n in range(g.first_task[b], g.first_task[b + 1]):
            x = task[n]
            for w in range(width):
                share[w] += one if x[w] == most[w] else zero
        for w in range(width):
            share[w] = of_max[w] / share[w]
        for n in range(g.first_task[b], g.first_task[b + 1]):
            x, dx = task[n], task_gradient[n]
            for w in range(width):
                extra = share[w]
                extra = extra if x[w] == most[w] else zero
                dx[w] = of_task_mean[w] * task_share + extra
        for a in range(present.shape[1]):
            factor = agent_share if present[b, a] else zero
            dz = agent_gradient[b * present.shape[1] + a]
            for w in range(width):
                dz[w] = of_agent_mean[w] * factor
