"""The transition function of the decision process, written once.

Only arrays, scalars and loops, nothing allocated, nothing raised, so that numba compiles the same source for the CPU and, as
device functions, for a GPU. `t` are the Tables, `s` the State, `b` the environment; i, j, a, r, u are instance, task number,
agent, resource and tenant.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from bench.instance import NOT_ELIGIBLE
from bench.setting import OBJECTIVES
from bench.simulator.tables import (
    AGENT, ANNOUNCED, CAPACITY, DEAD_END, DECISIONS, DEMAND, DIRTY, DUE, DURATION, END, FREE, ILLEGAL, INSTANCE, LAST_END,
    LATEST, LEAVE, LEFT, NEVER, NEXT_ARRIVAL, NEXT_END, NEXT_OUTAGE, N_AGENTS, N_FINISHED, N_LOST, N_PENDING, N_RUNNING,
    N_TASKS, OUTAGE, OUTAGE_END, OUTAGE_START, PENALTY, PENDING, RELEASE, ROWS_FRESH, RUNNERS, RUNNING, SCALE, START,
    STATUS, TENANT, TERMINATED, TIME, TRUNCATED, TYPE, UP, VISIBLE, VISIBLE_END, WEIGHT, WEIGHT_INSIDE,
)  # fmt: skip

TOTAL_TIME = OBJECTIVES.index("total_time")
MAKESPAN = OBJECTIVES.index("makespan")
TARDINESS = OBJECTIVES.index("tardiness")
BOUNDED_SLOWDOWN = OBJECTIVES.index("bounded_slowdown")

# No reference counting: nothing is allocated, and atomic counts on every array access cost two thirds of the speed.
# A call passes every array's shape and strides, some 170 numbers: what runs at every decision is inlined (not more, or
# compilation takes minutes). The indices used most, `b` and `i`, are unsigned, which spares the test for negative ones.
device = njit(cache=True, _nrt=False)
inlined = njit(cache=True, _nrt=False, forceinline=True)


# -- legality ---------------------------------------------------------------------------------------------------


@device
def eligible(t, i, j, a):
    """j may run on a at all: its type is eligible, and a's capacity and j's quota cover the demand alone."""
    kind = t.agents[i, a, TYPE]
    if t.work[i, j, kind, VISIBLE] == NOT_ELIGIBLE:
        return False
    u = t.task[i, j, TENANT]
    for r in range(t.quota.shape[2]):
        need = t.work[i, j, kind, DEMAND + r]
        if need > t.agents[i, a, CAPACITY + r] or (
            t.quota.shape[1] > 0 and need > t.quota[i, u, r]
        ):
            return False
    return True


@inlined
def room(s, b, a):
    """Ticks from now until a's next announced outage; 0 while it is away."""
    return s.agents[b, a, UP] * (s.agents[b, a, NEXT_OUTAGE] - s.env[b, TIME])


@inlined
def fits_in(t, s, b, i, j, a, kind, ticks):
    """j may start on a (of type `kind`) now: by the visible duration it needs no more than `ticks`, demand and quota fit."""
    length = t.work[i, j, kind, VISIBLE]
    if length == NOT_ELIGIBLE or length > ticks:
        return False
    for r in range(t.quota.shape[2]):
        if t.work[i, j, kind, DEMAND + r] > s.agents[b, a, FREE + r]:
            return False
    if t.quota.shape[1] > 0:
        u = t.task[i, j, TENANT]
        for r in range(t.quota.shape[2]):
            if t.work[i, j, kind, DEMAND + r] > s.tenants[b, u, LEFT + r]:
                return False
    return True


@device
def fits(t, s, b, j, a):
    """j may start on a now: a is up, demand and quota fit, and by the visible duration it ends before a's next outage."""
    i = np.uint64(s.env[b, INSTANCE])
    return fits_in(t, s, b, i, j, a, t.agents[i, a, TYPE], room(s, b, a))


@device
def legal(t, s, b, j, a):
    """(j, a) is a legal action for a pending j."""
    if t.commit:
        return eligible(t, s.env[b, INSTANCE], j, a)
    return fits(t, s, b, j, a)


@device
def wait_legal(t, s, b):
    """`wait` is legal: a task is running or a known event (arrival, announced outage edge) lies ahead."""
    if t.commit or t.budget:
        return False
    if s.env[b, N_RUNNING] > 0:
        return True
    i = np.uint64(s.env[b, INSTANCE])
    if t.observe_all and s.env[b, NEXT_ARRIVAL] < t.size[i, N_TASKS]:
        return True
    for a in range(t.size[i, N_AGENTS]):
        e = s.agents[b, a, OUTAGE]
        if s.agents[b, a, NEXT_OUTAGE] < NEVER or (
            s.agents[b, a, UP] == 0 and t.outages[i, a, e, ANNOUNCED] == 1
        ):
            return True
    return False


@inlined
def stuck(t, s, b):
    """Nothing that the window shows is legal, so the clock moves by itself."""
    if wait_legal(t, s, b):
        return False
    for k in range(min(s.env[b, N_PENDING], s.window.shape[1])):
        for a in range(t.size[s.env[b, INSTANCE], N_AGENTS]):
            if legal(t, s, b, s.task[b, PENDING, k], a):
                return False
    return True


@device
def dead_end(t, s, b):
    """`budget` sharing: some task fits nowhere any more."""
    for k in range(s.env[b, N_PENDING]):
        anywhere = False
        for a in range(t.size[s.env[b, INSTANCE], N_AGENTS]):
            if fits(t, s, b, s.task[b, PENDING, k], a):
                anywhere = True
                break
        if not anywhere:
            return True
    return False


# -- starting and ending tasks ----------------------------------------------------------------------------------


@inlined
def hold(t, s, b, j, a, sign):
    """Take (sign = -1) or give back (sign = 1) what j holds on a."""
    i = np.uint64(s.env[b, INSTANCE])
    kind = t.agents[i, a, TYPE]
    for r in range(t.quota.shape[2]):
        s.agents[b, a, FREE + r] += sign * t.work[i, j, kind, DEMAND + r]
    s.agents[b, a, DIRTY] = 1
    if t.quota.shape[1] > 0:
        u = t.task[i, j, TENANT]
        for r in range(t.quota.shape[2]):
            s.tenants[b, u, LEFT + r] += sign * t.work[i, j, kind, DEMAND + r]
        s.tenants[b, u, DIRTY] = 1


@inlined
def find(s, b, j):
    """Position of task j in the pending list (bisection), or where it would be inserted."""
    low, high = 0, s.env[b, N_PENDING]
    while low < high:
        middle = (low + high) // 2
        if s.task[b, PENDING, middle] < j:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def drop_pending(t, s, b, k):
    """Remove queue position k; the mask rows behind it move up."""
    m = t.agents.shape[1]
    for q in range(k, s.env[b, N_PENDING] - 1):
        s.task[b, PENDING, q] = s.task[b, PENDING, q + 1]
    s.env[b, N_PENDING] -= 1
    if k < s.env[b, ROWS_FRESH]:
        for x in range(k * m, (s.env[b, ROWS_FRESH] - 1) * m):
            s.mask[b, x] = s.mask[b, x + m]
        s.env[b, ROWS_FRESH] -= 1
        for x in range(s.env[b, ROWS_FRESH] * m, (s.env[b, ROWS_FRESH] + 1) * m):
            s.mask[b, x] = 0


@device
def slowdown_share(t, i, j, end):
    """max(1, T_j / max(p_j, 10 s)) / N."""
    return max(1.0, (end - t.task[i, j, RELEASE]) / t.floor[i, j]) / t.size[i, N_TASKS]


@device
def pay_assignment(t, s, b, j):
    """`shaped`: the whole share of j in the objective, paid when it starts, from its true end."""
    i = np.uint64(s.env[b, INSTANCE])
    cost = 0.0
    if t.objective == TOTAL_TIME:
        cost = float(t.task[i, j, WEIGHT] * (s.task[b, END, j] - t.task[i, j, RELEASE]))
    elif t.objective == TARDINESS:
        cost = float(t.task[i, j, WEIGHT] * max(0, s.task[b, END, j] - t.task[i, j, DUE]))
    elif t.objective == BOUNDED_SLOWDOWN:
        cost = slowdown_share(t, i, j, s.task[b, END, j])
    elif s.task[b, END, j] > s.env[b, LATEST]:
        cost = float(s.task[b, END, j] - s.env[b, LATEST])
        s.env[b, LATEST] = s.task[b, END, j]
    s.reward[b] -= cost / t.real[i, SCALE]


@inlined
def begin(t, s, b, j, a):
    """Start pending task j on agent a now."""
    i = np.uint64(s.env[b, INSTANCE])
    kind = t.agents[i, a, TYPE]
    drop_pending(t, s, b, find(s, b, j))
    hold(t, s, b, j, a, -1)
    s.task[b, AGENT, j] = a
    s.task[b, START, j] = s.env[b, TIME]
    s.task[b, END, j] = s.env[b, TIME] + t.work[i, j, kind, DURATION]
    s.task[b, VISIBLE_END, j] = s.env[b, TIME] + t.work[i, j, kind, VISIBLE]
    if t.budget:
        s.env[b, N_FINISHED] += 1
        s.reward[b] -= t.task[i, j, WEIGHT] * t.work[i, j, kind, DURATION] / t.real[i, SCALE]
        return
    s.task[b, RUNNERS, s.env[b, N_RUNNING]] = j
    s.env[b, N_RUNNING] += 1
    if t.shaped:
        pay_assignment(t, s, b, j)


@inlined
def finish(t, s, b, j):
    """Task j ends now."""
    i = np.uint64(s.env[b, INSTANCE])
    hold(t, s, b, j, s.task[b, AGENT, j], 1)
    s.env[b, N_FINISHED] += 1
    s.env[b, WEIGHT_INSIDE] -= t.task[i, j, WEIGHT]
    if t.shaped:
        return
    if t.objective == MAKESPAN and s.task[b, END, j] > s.env[b, LATEST]:
        s.reward[b] -= (s.task[b, END, j] - s.env[b, LATEST]) / t.real[i, SCALE]
        s.env[b, LATEST] = s.task[b, END, j]
    elif t.objective == BOUNDED_SLOWDOWN:
        s.reward[b] -= slowdown_share(t, i, j, s.task[b, END, j]) / t.real[i, SCALE]


@device
def kill(t, s, b, j):
    """An outage cuts j short: what it did is lost, and it is pending again with its full duration."""
    n = s.env[b, N_LOST]
    s.lost[b, n, 0] = j
    s.lost[b, n, 1] = s.task[b, AGENT, j]
    s.lost[b, n, 2] = s.task[b, START, j]
    s.lost[b, n, 3] = s.env[b, TIME]
    s.env[b, N_LOST] += 1
    hold(t, s, b, j, s.task[b, AGENT, j], 1)
    s.task[b, AGENT, j] = -1
    k = find(s, b, j)
    for q in range(s.env[b, N_PENDING], k, -1):
        s.task[b, PENDING, q] = s.task[b, PENDING, q - 1]
    s.task[b, PENDING, k] = j
    s.env[b, N_PENDING] += 1
    m = t.agents.shape[1]
    for x in range(k * m, s.env[b, ROWS_FRESH] * m):
        s.mask[b, x] = 0
    s.env[b, ROWS_FRESH] = min(s.env[b, ROWS_FRESH], k)


@device
def arrive(t, s, b):
    """The next task is released and joins the end of the queue."""
    i = np.uint64(s.env[b, INSTANCE])
    j = s.env[b, NEXT_ARRIVAL]
    s.task[b, PENDING, s.env[b, N_PENDING]] = j
    s.env[b, N_PENDING] += 1
    s.env[b, NEXT_ARRIVAL] += 1
    s.env[b, WEIGHT_INSIDE] += t.task[i, j, WEIGHT]
    if t.objective == TARDINESS and not t.shaped and t.task[i, j, DUE] < t.task[i, j, RELEASE]:
        s.reward[b] -= (
            t.task[i, j, WEIGHT] * (t.task[i, j, RELEASE] - t.task[i, j, DUE]) / t.real[i, SCALE]
        )


# -- the clock --------------------------------------------------------------------------------------------------


@device
def edge(t, s, b, a):
    """Tick of the next outage edge of agent a: a start while it is up, an end while it is down."""
    i = np.uint64(s.env[b, INSTANCE])
    if s.agents[b, a, UP] == 1:
        return t.outages[i, a, s.agents[b, a, OUTAGE], OUTAGE_START]
    return t.outages[i, a, s.agents[b, a, OUTAGE], OUTAGE_END]


@device
def overdue(t, s, b, j, until):
    """w_j times the part of [time, until) behind j's due date."""
    i = np.uint64(s.env[b, INSTANCE])
    return t.task[i, j, WEIGHT] * max(0, until - max(s.env[b, TIME], t.task[i, j, DUE]))


@inlined
def move_clock(t, s, b, until):
    """Pass time up to tick `until` with nothing happening; time-accrued objectives are paid."""
    i = np.uint64(s.env[b, INSTANCE])
    if not t.shaped and t.objective == TOTAL_TIME:
        s.reward[b] -= s.env[b, WEIGHT_INSIDE] * (until - s.env[b, TIME]) / t.real[i, SCALE]
    if not t.shaped and t.objective == TARDINESS:
        late = 0
        for k in range(s.env[b, N_PENDING]):
            late += overdue(t, s, b, s.task[b, PENDING, k], until)
        for k in range(s.env[b, N_RUNNING]):
            late += overdue(t, s, b, s.task[b, RUNNERS, k], until)
        s.reward[b] -= late / t.real[i, SCALE]
    s.env[b, TIME] = until
    for a in range(t.size[i, N_AGENTS]):
        if s.agents[b, a, NEXT_OUTAGE] < NEVER:
            s.agents[b, a, DIRTY] = 1


@inlined
def complete(t, s, b, most):
    """End up to `most` running tasks that are due to end now."""
    kept = 0
    done = 0
    for k in range(s.env[b, N_RUNNING]):
        j = s.task[b, RUNNERS, k]
        if s.task[b, END, j] <= s.env[b, TIME] and done < most:
            finish(t, s, b, j)
            done += 1
        else:
            s.task[b, RUNNERS, kept] = j
            kept += 1
    s.env[b, N_RUNNING] = kept


@device
def toggle(t, s, b, a):
    """Pass one outage edge of agent a; tasks caught by a start are killed."""
    s.agents[b, a, DIRTY] = 1
    if s.agents[b, a, UP] == 1:
        s.agents[b, a, UP] = 0
        kept = 0
        for k in range(s.env[b, N_RUNNING]):
            j = s.task[b, RUNNERS, k]
            if s.task[b, AGENT, j] == a:
                kill(t, s, b, j)
            else:
                s.task[b, RUNNERS, kept] = j
                kept += 1
        s.env[b, N_RUNNING] = kept
    else:
        s.agents[b, a, UP] = 1
        s.agents[b, a, OUTAGE] += 1
    announce(t, s, b, a)


@device
def announce(t, s, b, a):
    """Find the start of the next announced outage of agent a."""
    i = np.uint64(s.env[b, INSTANCE])
    e = s.agents[b, a, OUTAGE] + (1 - s.agents[b, a, UP])
    s.agents[b, a, NEXT_OUTAGE] = NEVER
    while e < t.outages.shape[2]:
        if t.outages[i, a, e, ANNOUNCED] == 1:
            s.agents[b, a, NEXT_OUTAGE] = t.outages[i, a, e, OUTAGE_START]
            return
        e += 1


@device
def advance(t, s, b):
    """Move to the next event (arrival, completion, outage edge) and let it happen. There is always one."""
    i = np.uint64(s.env[b, INSTANCE])
    arrival = NEVER
    if s.env[b, NEXT_ARRIVAL] < t.size[i, N_TASKS]:
        arrival = t.task[i, s.env[b, NEXT_ARRIVAL], RELEASE]
    ending = NEVER
    for k in range(s.env[b, N_RUNNING]):
        ending = min(ending, s.task[b, END, s.task[b, RUNNERS, k]])
    outage = NEVER
    if t.outages.shape[2] > 1:
        for a in range(t.size[i, N_AGENTS]):
            outage = min(outage, edge(t, s, b, a))
    until = max(s.env[b, TIME], min(arrival, ending, outage))
    if until > s.env[b, TIME]:
        move_clock(t, s, b, until)
    if t.singly and outage > until:
        if arrival <= until:
            arrive(t, s, b)
        else:
            complete(t, s, b, 1)
        return
    complete(t, s, b, s.env[b, N_RUNNING])
    pass_edges(t, s, b)
    admit(t, s, b)


@device
def pass_edges(t, s, b):
    """All outage edges of this tick."""
    if t.outages.shape[2] > 1:
        for a in range(t.size[s.env[b, INSTANCE], N_AGENTS]):
            while edge(t, s, b, a) <= s.env[b, TIME]:
                toggle(t, s, b, a)


@device
def admit(t, s, b):
    """All arrivals of this tick."""
    i = np.uint64(s.env[b, INSTANCE])
    while (
        s.env[b, NEXT_ARRIVAL] < t.size[i, N_TASKS]
        and t.task[i, s.env[b, NEXT_ARRIVAL], RELEASE] <= s.env[b, TIME]
    ):
        arrive(t, s, b)


# -- commit mode ------------------------------------------------------------------------------------------------


@device
def fits_at(t, s, b, j, a, when):
    """By the visible ends, j fits on a from tick `when` on."""
    i = np.uint64(s.env[b, INSTANCE])
    kind = t.agents[i, a, TYPE]
    u = t.task[i, j, TENANT]
    for r in range(t.quota.shape[2]):
        here = s.agents[b, a, FREE + r]
        quota = NEVER
        if t.quota.shape[1] > 0:
            quota = s.tenants[b, u, LEFT + r]
        for k in range(s.env[b, N_RUNNING]):
            q = s.task[b, RUNNERS, k]
            if max(s.task[b, VISIBLE_END, q], s.env[b, TIME] + 1) <= when:
                held = t.work[i, q, t.agents[i, s.task[b, AGENT, q], TYPE], DEMAND + r]
                if s.task[b, AGENT, q] == a:
                    here += held
                if t.quota.shape[1] > 0 and t.task[i, q, TENANT] == u:
                    quota += held
        if t.work[i, j, kind, DEMAND + r] > here or t.work[i, j, kind, DEMAND + r] > quota:
            return False
    until = when + t.work[i, j, kind, VISIBLE]
    for e in range(s.agents[b, a, OUTAGE], t.outages.shape[2]):
        if t.outages[i, a, e, ANNOUNCED] == 1:
            if t.outages[i, a, e, OUTAGE_START] < until and when < t.outages[i, a, e, OUTAGE_END]:
                return False
        elif e == s.agents[b, a, OUTAGE] and s.agents[b, a, UP] == 0:
            return False
    return True


@device
def reserved_start(t, s, b, j, a):
    """Earliest tick at which, by the visible ends and announced outages, j fits on a; NEVER while a is away for nobody knows
    how long."""
    i = np.uint64(s.env[b, INSTANCE])
    when = s.env[b, TIME]
    while not fits_at(t, s, b, j, a, when):
        later = NEVER
        for k in range(s.env[b, N_RUNNING]):
            end = max(s.task[b, VISIBLE_END, s.task[b, RUNNERS, k]], s.env[b, TIME] + 1)
            if end > when:
                later = min(later, end)
        for e in range(s.agents[b, a, OUTAGE], t.outages.shape[2]):
            if t.outages[i, a, e, ANNOUNCED] == 1 and t.outages[i, a, e, OUTAGE_END] > when:
                later = min(later, t.outages[i, a, e, OUTAGE_END])
        if later == NEVER:
            return NEVER
        when = later
    return when


@device
def backfill(t, s, b, head, agent):
    """EASY (Lifka 1995): in queue order, tasks that fit now and visibly end before the head's reserved start are started,
    each on the agent where its visible duration is shortest (ties: lowest index)."""
    i = np.uint64(s.env[b, INSTANCE])
    reserved = reserved_start(t, s, b, head, agent)
    k = 0
    while k < s.env[b, N_PENDING]:
        j = s.task[b, PENDING, k]
        best = -1
        if j != head:
            for a in range(t.size[i, N_AGENTS]):
                length = t.work[i, j, t.agents[i, a, TYPE], VISIBLE]
                shorter = best < 0 or length < t.work[i, j, t.agents[i, best, TYPE], VISIBLE]
                if shorter and s.env[b, TIME] + length < reserved and fits(t, s, b, j, a):
                    best = a
        if best >= 0:
            begin(t, s, b, j, best)
        else:
            k += 1


# -- what a policy is shown -------------------------------------------------------------------------------------


@inlined
def refresh_mask(t, s, b, shown):
    """The first `shown` rows and `wait`; only entries that may have changed are computed."""
    i = np.uint64(s.env[b, INSTANCE])
    m, agents, fresh = t.agents.shape[1], t.size[i, N_AGENTS], s.env[b, ROWS_FRESH]
    if not t.commit:
        for a in range(agents):
            if s.agents[b, a, DIRTY] == 1:
                kind, ticks = t.agents[i, a, TYPE], room(s, b, a)
                for k in range(fresh):
                    s.mask[b, k * m + a] = fits_in(
                        t, s, b, i, s.task[b, PENDING, k], a, kind, ticks
                    )
        if t.quota.shape[1] > 0:
            for k in range(fresh):
                j = s.task[b, PENDING, k]
                if s.tenants[b, t.task[i, j, TENANT], DIRTY] == 1:
                    for a in range(agents):
                        s.mask[b, k * m + a] = fits(t, s, b, j, a)
            for u in range(t.quota.shape[1]):
                s.tenants[b, u, DIRTY] = 0
    for k in range(fresh, shown):
        for a in range(agents):
            s.mask[b, k * m + a] = legal(t, s, b, s.task[b, PENDING, k], a)
    s.env[b, ROWS_FRESH] = shown
    s.mask[b, s.mask.shape[1] - 1] = wait_legal(t, s, b)


@inlined
def refresh_agents(t, s, b):
    """First and last visible end on each agent."""
    agents, now = t.size[s.env[b, INSTANCE], N_AGENTS], s.env[b, TIME]
    for a in range(agents):
        s.agents[b, a, DIRTY] = 0
        s.agents[b, a, NEXT_END] = NEVER
        s.agents[b, a, LAST_END] = now
    for k in range(s.env[b, N_RUNNING]):
        j = s.task[b, RUNNERS, k]
        a, end = s.task[b, AGENT, j], s.task[b, VISIBLE_END, j]
        s.agents[b, a, NEXT_END] = min(s.agents[b, a, NEXT_END], end)
        s.agents[b, a, LAST_END] = max(s.agents[b, a, LAST_END], end)
    for a in range(agents):
        if s.agents[b, a, NEXT_END] == NEVER:
            s.agents[b, a, NEXT_END] = now


@inlined
def refresh_window(t, s, b, shown):
    """The first `shown` pending tasks and, where the future is seen and the queue leaves room, the next arrivals."""
    ahead = 0
    if t.observe_all and not t.budget and s.env[b, N_PENDING] == shown:
        arrived = s.env[b, NEXT_ARRIVAL]
        ahead = min(t.size[s.env[b, INSTANCE], N_TASKS] - arrived, s.window.shape[1] - shown)
        for k in range(ahead):
            s.window[b, shown + k] = arrived + k
    for k in range(shown):
        s.window[b, k] = s.task[b, PENDING, k]
    for k in range(shown + ahead, s.window.shape[1]):
        s.window[b, k] = -1


@inlined
def refresh(t, s, b):
    """Bring all that a policy is shown up to date. No action is legal once the episode has ended."""
    shown = min(s.env[b, N_PENDING], s.window.shape[1])
    refresh_mask(t, s, b, shown)
    refresh_agents(t, s, b)
    refresh_window(t, s, b, shown)
    if s.env[b, STATUS] == TERMINATED or s.env[b, STATUS] == DEAD_END:
        for x in range(s.mask.shape[1]):
            s.mask[b, x] = 0


# -- the decision process ---------------------------------------------------------------------------------------


@inlined
def settle(t, s, b):
    """Let time pass until a decision is due or the episode is over."""
    i = np.uint64(s.env[b, INSTANCE])
    if t.budget:
        if s.env[b, N_FINISHED] == t.size[i, N_TASKS]:
            s.env[b, STATUS] = TERMINATED
        elif dead_end(t, s, b):
            s.reward[b] -= s.env[b, N_PENDING] * t.real[i, PENALTY] / t.real[i, SCALE]
            s.env[b, STATUS] = DEAD_END
    else:
        while True:
            if s.env[b, N_FINISHED] == t.size[i, N_TASKS]:
                s.env[b, STATUS] = TERMINATED
                break
            if s.env[b, N_PENDING] > 0 and not stuck(t, s, b):
                break
            advance(t, s, b)
    if s.env[b, STATUS] == RUNNING and s.env[b, DECISIONS] >= t.limit:
        s.env[b, STATUS] = TRUNCATED


@device
def reset(t, s, b, i):
    """Environment b starts a new episode of instance i."""
    n, m = t.size[i, N_TASKS], t.size[i, N_AGENTS]
    s.env[b, INSTANCE] = i
    s.env[b, TIME] = 0
    s.env[b, NEXT_ARRIVAL] = 0
    s.env[b, N_PENDING] = 0
    s.env[b, N_RUNNING] = 0
    s.env[b, N_FINISHED] = 0
    s.env[b, WEIGHT_INSIDE] = 0
    s.env[b, LATEST] = 0
    s.env[b, N_LOST] = 0
    s.env[b, ROWS_FRESH] = 0
    s.reward[b] = 0.0
    s.env[b, DECISIONS] = 0
    s.env[b, STATUS] = RUNNING
    for j in range(n):
        s.task[b, AGENT, j] = -1
    for a in range(m, t.agents.shape[1]):  # padding keeps nothing of the instance before
        for x in range(s.agents.shape[2]):
            s.agents[b, a, x] = 0
    for a in range(m):
        for r in range(t.quota.shape[2]):
            s.agents[b, a, FREE + r] = t.agents[i, a, CAPACITY + r]
        s.agents[b, a, UP] = 1
        s.agents[b, a, OUTAGE] = 0
        s.agents[b, a, DIRTY] = 0
        announce(t, s, b, a)
    for u in range(t.quota.shape[1]):
        for r in range(t.quota.shape[2]):
            s.tenants[b, u, LEFT + r] = t.quota[i, u, r]
        s.tenants[b, u, DIRTY] = 0
    for x in range(s.mask.shape[1]):
        s.mask[b, x] = 0
    pass_edges(t, s, b)
    if not t.singly:
        admit(t, s, b)
    settle(t, s, b)
    refresh(t, s, b)


@device
def step(t, s, b, action):
    """Apply a flat action, then let time pass until the next decision or the end.

    An illegal action changes nothing but the status, to ILLEGAL; LEAVE leaves a finished environment as it is.
    """
    if action == LEAVE and s.env[b, STATUS] != RUNNING:
        s.reward[b] = 0.0
        return
    if (
        action < 0
        or action >= s.mask.shape[1]
        or s.mask[b, action] == 0
        or s.env[b, STATUS] != RUNNING
    ):
        s.env[b, STATUS] = ILLEGAL
        return
    if s.env[b, DECISIONS] > 0:  # the first step also pays what passed before the first decision
        s.reward[b] = 0.0
    s.env[b, DECISIONS] += 1
    if action == s.mask.shape[1] - 1:
        advance(t, s, b)
    else:
        m = t.agents.shape[1]
        j = s.task[b, PENDING, action // m]
        a = action % m
        while t.commit and not fits(t, s, b, j, a):
            if t.backfill:
                backfill(t, s, b, j, a)
            advance(t, s, b)
        begin(t, s, b, j, a)
    settle(t, s, b)
    refresh(t, s, b)


@device
def renew(t, s, b, i, everyone):
    """`reset` to instance i where the episode is over (an illegal action stays to be seen), or for `everyone`."""
    if everyone or (s.env[b, STATUS] != RUNNING and s.env[b, STATUS] != ILLEGAL):
        reset(t, s, b, i)


@njit(cache=True)
def reset_all(t, s, environments, instances):
    """`reset` for some environments (E,), each to its instance (E,)."""
    for e in range(len(environments)):
        reset(t, s, np.uint64(environments[e]), instances[e])


@njit(cache=True)
def restart(t, s, instances, everyone):
    """`renew` for every environment; instances (B,)."""
    for b in range(len(instances)):
        renew(t, s, np.uint64(b), instances[b], everyone)


@njit(cache=True)
def step_few(t, s, actions):
    """`step` for every environment; actions (B,)."""
    for b in range(len(actions)):
        step(t, s, np.uint64(b), actions[b])


@njit(cache=True, parallel=True)
def step_many(t, s, actions):
    """`step_few` on several threads. (A function of its own: numba's cache knows functions by name, not by options.)"""
    for b in prange(len(actions)):
        step(t, s, np.uint64(b), actions[b])


@inlined
def xorshift(x):
    """The next uint64 of xorshift64 (Marsaglia 2003), which is also its state."""
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    return x


@inlined
def random_legal(s, b, m, x):
    """The legal action that a random uint64 `x` picks, uniformly."""
    last = s.mask.shape[1] - 1
    entries = s.env[b, ROWS_FRESH] * m
    count = np.int64(s.mask[b, last])
    for k in range(entries):
        count += s.mask[b, k]
    rank = np.int64((x >> np.uint64(11)) % np.uint64(count))
    for k in range(entries):
        rank -= s.mask[b, k]
        if rank < 0:
            return k
    return last


@device
def play(t, s, b, seed, decisions, again):
    """Random legal play of at most `decisions` decisions in environment b from a non-zero uint64 `seed`.

    Returns the number of finished episodes and the sum of their returns. A finished environment stops, or plays its instance
    `again`.
    """
    finished, returns, total = 0, 0.0, 0.0
    for _ in range(decisions):
        if s.env[b, STATUS] != RUNNING:
            break
        seed = xorshift(seed)
        step(t, s, b, random_legal(s, b, t.agents.shape[1], seed))
        total += s.reward[b]
        if s.env[b, STATUS] != RUNNING:
            finished += 1
            returns += total
            total = 0.0
            if again:
                reset(t, s, b, s.env[b, INSTANCE])
    return finished, returns


@njit(cache=True, parallel=True)
def play_random(t, s, seeds, decisions, again, returns):
    """`play` in every environment; seeds (B,) uint64, results to `returns` (B, 2)."""
    for b in prange(len(seeds)):
        returns[b, 0], returns[b, 1] = play(t, s, np.uint64(b), seeds[b], decisions, again)
