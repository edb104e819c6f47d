"""Hand-made observations for tests of dispatch rules."""

import numpy as np

from bench.observation import Observation

NEVER = np.iinfo(np.int64).max
RNG = np.random.default_rng(0)


def observe(
    duration,
    demand=None,
    *,
    capacity=((4,),),
    wait=None,
    running=(),
    mask=None,
    commit=False,
    **other,
) -> Observation:
    """Return an observation.

    Parameters
    ----------
    duration
        (P, T), or (P,) for one type.
    demand
        (P, T, R), or (P, R) or (P,) for the same demand on all types.
    wait
        Whether waiting is legal; by default whether a task is running.
    running
        (agent, end, demand[, tenant]) of each running task.
    mask
        By default that of fit mode, or of commit mode.
    other
        Fields of the observation.
    """
    duration = np.array(duration).reshape(len(duration), -1)
    p, t = duration.shape
    capacity = np.array(capacity)
    m, r = capacity.shape
    demand = np.ones((p, t, r), int) if demand is None else np.array(demand)
    if demand.ndim < 3:
        demand = np.repeat(demand.reshape(p, 1, r), t, axis=1)
    running = [row if len(row) == 4 else (*row, 0) for row in running]
    held = np.array([row[2] for row in running], dtype=int).reshape(len(running), r)
    free = capacity.copy()
    np.subtract.at(free, [row[0] for row in running], held)
    now = {
        "time": 0,
        "tick_seconds": 1.0,
        "release": np.zeros(p, int),
        "weight": np.ones(p, int),
        "due": None,
        "tenant": None,
    }
    now |= {
        "kind": np.zeros(p, int),
        "agent_type": np.arange(m) if t == m else np.zeros(m, int),
        "up": np.ones(m, bool),
    }
    now |= {"next_outage": np.full(m, NEVER), "tenant_free": None}
    now |= {
        key: np.array(value) if isinstance(value, list) else value for key, value in other.items()
    }
    agents = now["agent_type"]
    legal = (duration[:, agents] > 0) & (demand[:, agents] <= (capacity if commit else free)).all(
        -1
    )
    legal &= (now["release"] <= now["time"])[:, None]
    if not commit:
        legal &= now["up"] & (now["time"] + duration[:, agents] <= now["next_outage"])
        if now["tenant_free"] is not None:
            legal &= (demand[:, agents] <= now["tenant_free"][now["tenant"]][:, None]).all(-1)
    wait = (bool(running) and not commit) if wait is None else wait
    return Observation(
        **now,
        duration=duration,
        demand=demand,
        capacity=capacity,
        free=free,
        running_agent=np.array([row[0] for row in running], dtype=int),
        running_end=np.array([row[1] for row in running], dtype=int),
        running_demand=held,
        running_tenant=None
        if now["tenant"] is None
        else np.array([row[3] for row in running], dtype=int),
        mask=np.append(legal, wait) if mask is None else np.array(mask),
    )


def decide(rule, observation):
    """Return the decision (task, agent), or None for wait; fail if it is illegal."""
    action = rule.act(observation, RNG)
    assert observation.mask[action]
    return None if action == observation.wait else divmod(action, observation.n_agents)
