"""Messages between tasks and agents in compiled code for the CPU.

A message relu(W x + bias + task + agent) exists for every pair that can run, x being the features
of the pair. Only these pairs, often a third of all, are computed, and their messages are aggregated
while they are in the processor's cache. Padding is not
computed either: tasks are rows of one array. Shapes: B decisions, K tasks, M agents, n tasks of all
decisions, F features of a pair, W units of a message.
"""

from __future__ import annotations

import numpy as np

from bench.compiled import compiled
from solvers.networks.kernels.features import CAN_RUN

# products may be added without rounding in between; the order of sums stays as it is written
vectorized = compiled(fastmath={"contract"})


@compiled(fastmath={"contract"}, forceinline=True)
def project(x, weight, y):
    """Add the product of x (F,) and weight (F, W) to y (W,)."""
    f = 0
    while f + 4 <= len(x):
        x0, x1, x2, x3 = x[f], x[f + 1], x[f + 2], x[f + 3]
        for w in range(len(y)):
            y[w] += (
                x0 * weight[f, w]
                + x1 * weight[f + 1, w]
                + x2 * weight[f + 2, w]
                + x3 * weight[f + 3, w]
            )
        f += 4
    while f < len(x):
        for w in range(len(y)):
            y[w] += x[f] * weight[f, w]
        f += 1


@vectorized
def aggregate(
    pair, row, weight, bias, task, agent, message, agent_sum, agent_max, task_sum, task_max
):
    """Compute the messages and their sums and maxima.

    Parameters
    ----------
    pair
        (B, K, M, F).
    row
        (B, K) row in `task` of each task; any value for padding, of which no pair can run.
    weight, bias
        (F, W), (W,).
    task, agent
        (n, W), (B, M, W).
    message
        (p, W); the messages of the p pairs that can run are written to it, in the order of `pair`.
        Where p is 1, they overwrite each other.
    agent_sum, agent_max
        (B, M, W) zeros; sums and maxima over the tasks are written to them.
    task_sum, task_max
        (n, W) zeros; sums and maxima over the agents are written to them.
    """
    zero = bias.dtype.type(0)
    step = 1 if len(message) > 1 else 0
    p = 0
    for b in range(pair.shape[0]):
        for k in range(pair.shape[1]):
            n = row[b, k]
            for a in range(pair.shape[2]):
                if pair[b, k, a, CAN_RUN] == 0:
                    continue
                y = message[p]
                p += step
                for w in range(len(bias)):
                    y[w] = bias[w] + task[n, w] + agent[b, a, w]
                project(pair[b, k, a], weight, y)
                for w in range(len(bias)):
                    y[w] = y[w] if y[w] > zero else zero
                    agent_sum[b, a, w] += y[w]
                    task_sum[n, w] += y[w]
                    agent_max[b, a, w] = y[w] if y[w] > agent_max[b, a, w] else agent_max[b, a, w]
                    task_max[n, w] = y[w] if y[w] > task_max[n, w] else task_max[n, w]


@vectorized
def aggregate_backward(
    pair,
    row,
    message,
    agent_max,
    task_max,
    agent_sum_gradient,
    agent_max_gradient,
    task_sum_gradient,
    task_max_gradient,
    weight_gradient,
    bias_gradient,
    task_gradient,
    agent_gradient,
):
    """Add the gradients of `aggregate` to the last four arrays, which have its inputs' shapes.

    If several messages are the largest one, each gets the gradient of the maximum.
    """
    zero = bias_gradient.dtype.type(0)
    gradient = np.empty_like(bias_gradient)
    p = 0
    for b in range(pair.shape[0]):
        for k in range(pair.shape[1]):
            n = row[b, k]
            for a in range(pair.shape[2]):
                if pair[b, k, a, CAN_RUN] == 0:
                    continue
                y = message[p]
                p += 1
                for w in range(len(gradient)):
                    of_agent = agent_max_gradient[b, a, w] if y[w] == agent_max[b, a, w] else zero
                    of_task = task_max_gradient[n, w] if y[w] == task_max[n, w] else zero
                    whole = agent_sum_gradient[b, a, w] + task_sum_gradient[n, w]
                    gradient[w] = whole + of_agent + of_task if y[w] > zero else zero
                for w in range(len(gradient)):
                    bias_gradient[w] += gradient[w]
                    task_gradient[n, w] += gradient[w]
                    agent_gradient[b, a, w] += gradient[w]
                for f in range(pair.shape[3]):
                    x = pair[b, k, a, f]
                    for w in range(len(gradient)):
                        weight_gradient[f, w] += x * gradient[w]
