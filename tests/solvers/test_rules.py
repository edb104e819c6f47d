"""Dispatch rules: golden decisions on hand-made observations, ties, blocking, the kinds of play, and legality throughout."""

import re
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.contracts import Policy
from bench.observation import Observation
from solvers.dispatch.quantities import (
    arrived,
    completion,
    earliest_fit,
    leftover,
    processors,
    requested,
)
from solvers.matching import EFT, MaxMin, MinMin, Sufferage, Tetris
from solvers.rules import DRF, EDF, F1, FIFO, HRRN, LJF, SJF, UNICEP, WFP3, WSPT, Random

NEVER = np.iinfo(np.int64).max
CONF = Path(__file__).parents[2] / "conf" / "solver"
YAMLS = [
    path
    for path in sorted(CONF.glob("*.yaml"))
    if re.search(r"^_target_: solvers\.(rules|matching)\.", path.read_text(), re.M)
]
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
    """A decision; duration (P, T), demand (P,) or (P, R) alike on all types, running = (agent, end, demand[, tenant]) rows.

    The mask follows the fit mode's rule (or commit mode's); `wait` defaults to "something is running".
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
    """(task, agent) or None for wait; fails where the action is illegal."""
    action = rule.act(observation, RNG)
    assert observation.mask[action]
    return None if action == observation.wait else divmod(action, observation.n_agents)


def order(rule, observation):
    """Tasks in the order of the rule's keys."""
    return np.argsort(rule.priority(observation), kind="stable").tolist()


# -- what rules compute ---------------------------------------------------------------------------------------------------


def test_arrived_hides_the_future_and_nothing_else():
    seen = observe([5, 6, 1], time=3, release=[0, 3, 4], due=[9, 8, 7], tenant=[0, 1, 0], wait=True)
    now = arrived(seen)
    assert now.release.tolist() == [0, 3]
    assert now.due.tolist() == [9, 8]
    assert now.tenant.tolist() == [0, 1]
    assert now.mask.tolist() == [True, True, True]
    assert arrived(now) is now


def test_requested_is_the_shortest_duration_where_capacity_covers_in_seconds():
    seen = observe([[9, 4, 2], [7, -1, 8]], [3, 1], capacity=((4,), (3,), (2,)), tick_seconds=0.5)
    assert requested(seen).tolist() == [2.0, 3.5]


def test_processors_are_the_demand_or_the_dominant_share_in_units_of_the_first_resource():
    assert processors(observe([5, 5], [3, 0])).tolist() == [3.0, 1.0]
    seen = observe([5, 5, 5], [[2, 10], [0, 50], [1, 20]], capacity=((4, 50), (4, 50)))
    assert processors(seen).tolist() == [2.0, 4.0, 1.6]  # of 8 and 100 in all


def test_earliest_fit_counts_what_comes_back():
    free, owner, end = np.array([[1], [0]]), np.array([0, 1, 0, 1]), np.array([9, 5, 4, 7])
    held = np.array([[2], [1], [1], [3]])
    group, demand = (
        np.array([0, 0, 0, 0, 1, 1, 1, 1]),
        np.array([[1], [2], [3], [5], [0], [1], [2], [5]]),
    )
    expected = [2, 4, 9, np.inf, 2, 5, 7, np.inf]
    assert earliest_fit(2, free, owner, end, held, group, demand).tolist() == expected


def test_earliest_fit_equals_ticking_through():
    rng = np.random.default_rng(3)
    for _ in range(200):
        g, q, r, k = rng.integers(1, 5), rng.integers(0, 8), rng.integers(1, 4), 6
        free, held = rng.integers(0, 3, (g, r)), rng.integers(0, 3, (q, r))
        owner, end = (
            rng.integers(0, g, q),
            rng.integers(8, 20, q),
        )  # now = 10: some have outlived their visible end
        group, demand = rng.integers(0, g, k), rng.integers(0, 6, (k, r))
        back = np.maximum(end, 11)
        for i, got in enumerate(earliest_fit(10, free, owner, end, held, group, demand)):
            fits = (
                t
                for t in range(10, 21)
                if (
                    free[group[i]] + held[(owner == group[i]) & (back <= t)].sum(0) >= demand[i]
                ).all()
            )
            assert got == next(fits, np.inf)


def test_completion_knows_outages_quotas_and_ineligible_agents():
    seen = observe(
        [[5, 3, 4], [2, -1, 9]], [2, 1], capacity=((2,), (4,), (1,)), time=10, running=[(0, 16, [1], 0), (1, 12, [4], 1)],
        tenant=[1, 0], tenant_free=[[0], [0]], next_outage=[NEVER, 15, NEVER],
    )  # fmt: skip
    # task 0 needs 2 of tenant 1's quota, back at 12; on agent 1 it would run [12, 15), just before the outage
    assert completion(seen).tolist() == [[21, 15, np.inf], [18, np.inf, 25]]
    away = observe([5], capacity=((4,), (4,)), up=[False, True], next_outage=[NEVER, 4])
    assert completion(away).tolist() == [[np.inf, np.inf]]


def test_leftover_is_a_share_of_all_there_is():
    seen = observe([5], [[1, 2]], capacity=((4, 5), (4, 15)), running=[(0, 9, [2, 0])])
    assert leftover(seen)[0] == pytest.approx([1 / 8 + 3 / 20, 3 / 8 + 13 / 20])


# -- queue-order rules ----------------------------------------------------------------------------------------------------

QUEUE = observe(  # task: 0 1 2 3; 4 and 5 tie with 1
    [30, 10, 20, 40, 10], [1, 4, 2, 4, 4], time=100, release=[10, 70, 80, 90, 95], due=[500, 300, 200, 400, 200],
    weight=[3, 2, 10, 0, 2],
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FIFO(), [0, 1, 2, 3, 4]),
        (SJF(), [1, 4, 2, 0, 3]),
        (LJF(), [3, 0, 2, 1, 4]),
        (WSPT(), [2, 1, 4, 0, 3]),  # 2, 5, 5, 10, infinity: ties by release, weight 0 last
        (EDF(), [2, 4, 1, 3, 0]),
        (HRRN(), [0, 1, 2, 4, 3]),  # ratios 4, 4, 2, 1.5, 1.25
        (
            WFP3(),
            [1, 0, 2, 4, 3],
        ),  # (90/30)^3 1 = 27, 3^3 4 = 108, 1^3 2 = 2, 0.25^3 4, 0.5^3 4 = 0.5
        (
            UNICEP(),
            [0, 1, 2, 4, 3],
        ),  # one processor: unbounded; 30/20 = 1.5, 20/20 = 1, 10/80 = 0.125, 5/20 = 0.25
        (
            WFP3(published=True),
            [0, 3, 2, 1, 4],
        ),  # (11/30)^3 1, (71/10)^3 4, (81/20)^3 2 = 133, (91/40)^3 4 = 47, (96/10)^3 4
        (
            UNICEP(published=True),
            [3, 1, 2, 4, 0],
        ),  # 91/80 = 1.1, 71/20 = 3.55, 81/20 = 4.05, 96/20 = 4.8, unbounded
        (F1(), [0, 1, 2, 3, 4]),  # 871.5, 1609.2, 1658.3, 1706.6, 1724.6
        (DRF(), [0, 1, 2, 3, 4]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_queue_order(rule, expected):
    assert order(rule, QUEUE) == expected
    assert decide(rule, QUEUE) == (expected[0], 0)


def test_published_scores_are_those_of_a_scheduled_time_of_minus_one():
    seen = observe(
        [50], [8], capacity=((256,),), time=999, release=[29], tick_seconds=2.0
    )  # 100 s, submitted at 58 s
    assert WFP3(published=True).priority(seen)[0] == pytest.approx(0.59**3 * 8)
    assert UNICEP(published=True).priority(seen)[0] == pytest.approx(59 / 300)
    assert WFP3().priority(seen)[0] == pytest.approx(-(19.4**3) * 8)
    assert UNICEP().priority(seen)[0] == pytest.approx(-1940 / 300)
    assert HRRN().priority(seen)[0] == pytest.approx(-20.4)


def test_f1_in_seconds_with_floor_for_submit():
    seen = observe([50, 50], [8, 8], capacity=((256,),), time=9, release=[0, 5], tick_seconds=2.0)
    assert F1().priority(seen) == pytest.approx([2 * 8 - 870, 2 * 8 + 870])


def test_drf_serves_the_tenant_with_the_lowest_dominant_share():
    running = [(0, 9, [4, 0], 0), (0, 9, [1, 30], 1)]  # dominant shares 4/16 and 30/100
    seen = observe(
        [5, 5, 5], [[1, 1]] * 3, capacity=((8, 50), (8, 50)), running=running, tenant=[1, 0, 0]
    )
    assert DRF().priority(seen).tolist() == [0.3, 0.25, 0.25]
    assert decide(DRF(), seen)[0] == 1
    assert order(DRF(), observe([5, 5], tenant=[3, 1])) == [0, 1]


def test_edf_without_due_dates_is_fifo():
    assert order(EDF(), observe([9, 1, 5], time=5, release=[0, 1, 2])) == [0, 1, 2]


def test_agent_choice_shortest_then_best_fit_then_index():
    assert decide(FIFO(), observe([[5, 4, 6]], capacity=((4,), (4,), (4,)))) == (0, 1)
    assert decide(FIFO(), observe([5], [2], capacity=((4,), (3,), (3,)))) == (0, 1)
    busy = observe([5], [2], capacity=((4,), (4,), (8,)), running=[(1, 99, [1])])
    assert decide(FIFO(), busy) == (0, 1)


def test_blocking_waits_for_its_head_and_skipping_does_not():
    seen = observe([10, 20, 5], [4, 1, 2], running=[(0, 30, [2])])
    assert decide(FIFO(skip=False), seen) is None
    assert decide(FIFO(skip=True), seen) == (1, 0)
    assert decide(SJF(skip=True), seen) == (2, 0)
    assert decide(SJF(skip=False), seen) == (2, 0)  # the head itself fits
    assert decide(LJF(skip=False), observe([10, 20], [1, 4], running=[(0, 30, [2])])) is None
    stuck = observe([10, 20], [4, 1], running=[(0, 30, [2])], wait=False)
    assert decide(FIFO(skip=False), stuck) == (
        1,
        0,
    )  # where waiting is illegal the best task that fits starts
    assert decide(FIFO(), observe([10], [4], running=[(0, 30, [2])])) is None


def test_the_future_is_not_looked_at():
    seen = observe([9, 8, 1], time=5, release=[0, 5, 6], wait=True)
    assert decide(SJF(), seen) == (1, 0)
    assert decide(SJF(skip=False), seen) == (
        1,
        0,
    )  # the shorter task of the future is no head to wait for
    assert decide(MinMin(), seen) == (1, 0)
    later = observe([9, 1], [4, 1], time=5, release=[0, 6], running=[(0, 7, [1])])
    assert decide(SJF(), later) is None
    assert SJF.observe == MinMin.observe == Random.observe == "arrived"


# -- completion-time rules ------------------------------------------------------------------------------------------------

MATRIX = [[6, 8], [4, 9], [9, 10]]  # best completions 6, 4, 9; sufferage 2, 5, 1


@pytest.mark.parametrize(
    ("rule", "expected"), [(EFT(), 0), (MinMin(), 1), (MaxMin(), 2), (Sufferage(), 1)]
)
def test_completion_rules(rule, expected):
    seen = observe(MATRIX, capacity=((1,), (1,)))
    assert decide(rule, seen) == (expected, 0)
    ties = observe([[6, 8], [6, 8]], capacity=((1,), (1,)))
    assert decide(rule, ties) == (0, 0)


def test_sufferage_differs_from_min_min_and_prefers_those_without_choice():
    assert decide(Sufferage(), observe([[6, 9], [5, 7]], capacity=((1,), (1,)))) == (0, 0)
    assert decide(Sufferage(), observe([[1, 99], [50, -1]], capacity=((1,), (1,)))) == (1, 0)
    assert decide(Sufferage(), observe([6, 5], [1, 1])) == (0, 0)  # one agent: FIFO


def test_completion_rules_wait_for_a_better_agent():
    running = [(0, 3, [1])]  # agent 0 is back at 3: task 0 ends there at 5 < 9, task 1 at 13 > 8
    seen = observe([[2, 9], [10, 8]], capacity=((1,), (1,)), running=running)
    for rule in (EFT(), MinMin(), MaxMin(), Sufferage()):
        assert decide(rule, seen) == (1, 1)
    assert decide(FIFO(), seen) == (0, 1)
    alone = observe([[2, 9]], capacity=((1,), (1,)), running=running)
    assert decide(EFT(), alone) is None
    assert decide(EFT(), observe([[2, 9]], capacity=((1,), (1,)), running=running, wait=False)) == (
        0,
        1,
    )
    assert decide(EFT(), observe([[2, 5]], capacity=((1,), (1,)), running=running)) == (
        0,
        1,
    )  # as early as waiting: now


def test_tetris_aligns_demand_with_what_is_free():
    lopsided = observe([5, 5], [[1, 3], [3, 1]], capacity=((8, 8),), running=[(0, 9, [0, 4])])
    assert decide(Tetris(), lopsided) == (1, 0)  # 1/8 8/8 + 3/8 4/8 = 0.3125 < 3/8 8/8 + 1/8 4/8
    emptier = observe([5], [2], capacity=((8,), (8,)), running=[(0, 9, [4])])
    assert decide(Tetris(), emptier) == (0, 1)
    assert decide(Tetris(), observe([5, 3, 3], [2, 2, 2], capacity=((8,), (8,)))) == (
        1,
        0,
    )  # ties: duration, queue, agent
    assert decide(Tetris(), observe([5], [4], running=[(0, 9, [2])])) is None


def test_tetris_commits_to_the_earliest_start_first():
    seen = observe([5, 5], [4, 2], running=[(0, 9, [2])], commit=True)
    assert decide(Tetris(), seen) == (1, 0)


# -- commit mode and budget sharing ---------------------------------------------------------------------------------------


def commit_all(rule, duration):
    """Completion ticks (N,) of tasks that are all there at 0, one at a time per agent, in commit mode."""
    time, left, running, ends = 0, list(range(len(duration))), [], {}
    while left:
        active = [row for row in running if row[1] > time]
        seen = observe(
            [duration[j] for j in left],
            capacity=((1,),) * 3,
            time=time,
            running=active,
            commit=True,
        )
        task, agent = decide(rule, seen)
        time = max([time, *(row[1] for row in active if row[0] == agent)])
        ends[left[task]] = time + duration[left[task]][agent]
        running.append((agent, ends[left[task]], [1]))
        del left[task]
    return [ends[j] for j in range(len(duration))]


@pytest.mark.parametrize(
    ("rule", "total", "makespan"),
    [
        (FIFO(), 550, 325),
        (FIFO(skip=False), 550, 325),
        (EFT(), 550, 325),
        (SJF(), 600, 375),
        (LJF(), 650, 250),
    ],
)
def test_commit_mode_gives_the_golden_values_of_the_worked_example(rule, total, makespan):
    ends = commit_all(rule, [[500, 250, 125], [200, 100, 50], [800, 400, 200]])
    assert (sum(ends), max(ends)) == (total, makespan)


def test_commit_mode_commits_the_head_where_it_ends_first():
    seen = observe(
        [[4, 9], [1, 1]],
        [3, 1],
        capacity=((4,), (4,)),
        running=[(0, 6, [2]), (1, 5, [4])],
        commit=True,
    )
    assert decide(FIFO(skip=False), seen) == (0, 0)  # 6 + 4 < 5 + 9
    away = observe([4], capacity=((4,), (4,)), running=[(0, 6, [4])], up=[True, False], commit=True)
    assert decide(FIFO(), away) == (0, 0)
    assert decide(MaxMin(), observe([4, 5], up=[False], commit=True)) == (
        0,
        0,
    )  # no visible completion at all
    stuck = observe([[4, -1], [-1, 5]], capacity=((4,), (4,)), up=[False, True], commit=True)
    for rule in (EFT(), MinMin(), MaxMin(), Sufferage()):
        assert decide(rule, stuck) == (1, 1)  # task 0 has no visible completion


def test_budget_sharing_takes_the_cheapest_agent_that_fits():
    costs, usage = [[7, 3, 5], [2, 9, 1]], [2, 3]
    legal = [[True, False, True], [True, False, False]]
    seen = observe(costs, usage, capacity=((4,), (4,), (4,)), mask=[*np.ravel(legal), False])
    expected = {
        FIFO: (0, 2),
        SJF: (1, 0),
        EFT: (0, 2),
        MinMin: (1, 0),
        MaxMin: (0, 2),
        Sufferage: (1, 0),
    }
    for rule, pair in expected.items():
        assert decide(rule(), seen) == pair


# -- every rule of conf/solver --------------------------------------------------------------------------------------------


def random_observation(rng, commit):
    """A decision with a legal action: several types, resources, tenants, outages and tasks of the future."""
    p, m, r, t = rng.integers(1, 9), rng.integers(1, 6), rng.integers(1, 4), rng.integers(1, 4)
    capacity = rng.integers(2, 9, (m, r))
    duration = np.where(rng.random((p, t)) < 0.2, -1, rng.integers(1, 30, (p, t)))
    demand = np.minimum(rng.integers(0, 9, (p, t, r)), capacity.max(0))
    running, left = [], capacity.copy()
    for agent in rng.integers(0, m, rng.integers(0, 5)):
        held = rng.integers(0, left[agent] + 1)
        left[agent] -= held
        running.append(
            (agent, rng.integers(15, 50), held, rng.integers(0, 2))
        )  # now = 20: some have outlived their estimate
    tenants = (
        {"tenant": rng.integers(0, 2, p), "tenant_free": rng.integers(0, 12, (2, r))}
        if rng.random() < 0.5
        else {}
    )
    return observe(
        duration, demand, capacity=capacity, running=running, commit=commit, time=20, release=np.sort(rng.integers(0, 25, p)),
        due=rng.integers(0, 90, p) if rng.random() < 0.5 else None, weight=rng.integers(0, 3, p), up=rng.random(m) < 0.9,
        agent_type=rng.integers(0, t, m), next_outage=np.where(rng.random(m) < 0.3, rng.integers(21, 60, m), NEVER), **tenants,
    )  # fmt: skip


def scrambled_future(seen, rng):
    """The same decision with every unreleased task's data drawn anew."""
    late = np.flatnonzero(seen.release > seen.time)
    changed = {
        "duration": seen.duration.copy(),
        "demand": seen.demand.copy(),
        "weight": seen.weight.copy(),
    }
    changed["duration"][late] = rng.integers(1, 30, changed["duration"][late].shape)
    changed["demand"][late] = 0
    changed["weight"][late] = 99
    return Observation(**{**vars(seen), **changed})


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_is_a_policy_that_is_always_legal_and_blind_to_the_future(path):
    assert path.read_text().startswith("# ")
    rule, rng, decisions = instantiate(OmegaConf.load(path)), np.random.default_rng(7), 0
    assert isinstance(rule, Policy)
    assert rule.observe == "arrived"
    for i in range(300):
        seen = random_observation(rng, commit=i % 2 == 1)
        if seen.mask.any() and (seen.release <= seen.time).any():
            action = rule.act(seen, np.random.default_rng(i))
            assert isinstance(action, int)
            assert seen.mask[action]
            assert rule.act(scrambled_future(seen, rng), np.random.default_rng(i)) == action
            decisions += 1
    assert decisions > 100


def test_all_the_rules_are_there():
    assert len(YAMLS) >= 19
    kinds = {type(instantiate(OmegaConf.load(path))) for path in YAMLS}
    assert kinds >= {
        Random,
        FIFO,
        SJF,
        LJF,
        WSPT,
        EDF,
        HRRN,
        WFP3,
        UNICEP,
        F1,
        DRF,
        EFT,
        MinMin,
        MaxMin,
        Sufferage,
        Tetris,
    }


def test_random_is_uniform_over_legal_actions_and_waits_where_it_must():
    seen = observe([5, 5], [4, 2], running=[(0, 9, [2])])
    rng = np.random.default_rng(1)
    counts = np.bincount([Random().act(seen, rng) for _ in range(4000)], minlength=3)
    assert counts[0] == 0
    assert abs(counts[1] - 2000) < 200
    assert decide(Random(), observe([5], [4], running=[(0, 9, [2])])) is None
