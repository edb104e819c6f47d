"""Dispatch rules: expected decisions on hand-made observations, ties, blocking, modes, legality."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.contracts import Policy
from bench.observation import Observation
from bench.plugins import rules
from solvers.matching import EFT, MaxMin, MinMin, Sufferage, Tetris
from solvers.rules import DRF, EDF, F1, FIFO, HRRN, LJF, SJF, UNICEP, WFP3, WSPT, Random
from tests.solvers.dispatch.observations import NEVER, decide, observe

CONF = Path(__file__).parents[2] / "conf" / "solver"
YAMLS = [
    CONF / f"{name}.yaml" for name in (*rules(), "random", "wfp3_published", "unicep_published")
]


def order(rule, observation):
    """Return the tasks in the order of the keys of the rule."""
    return np.argsort(rule.priority(observation), kind="stable").tolist()


# -- rules that order the queue --------------------------------------------------------------------

QUEUE = observe(  # tasks 1 and 4 are equal except for release and due date
    duration=[30, 10, 20, 40, 10],
    demand=[1, 4, 2, 4, 4],
    time=100,
    release=[10, 70, 80, 90, 95],
    due=[500, 300, 200, 400, 200],
    weight=[3, 2, 10, 0, 2],
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FIFO(), [0, 1, 2, 3, 4]),
        (SJF(), [1, 4, 2, 0, 3]),
        (LJF(), [3, 0, 2, 1, 4]),
        (WSPT(), [2, 1, 4, 0, 3]),  # 2, 5, 5, 10, infinity: ties by release, weight 0 last
        (EDF(), [2, 4, 1, 3, 0]),
        (HRRN(), [0, 1, 2, 4, 3]),  # ratios 4, 4, 2, 1.5, 1.25
        # (90/30)^3 1 = 27, 3^3 4 = 108, 1^3 2 = 2, 0.25^3 4, 0.5^3 4 = 0.5
        (WFP3(), [1, 0, 2, 4, 3]),
        # one processor: unbounded; 30/20 = 1.5, 20/20 = 1, 10/80 = 0.125, 5/20 = 0.25
        (UNICEP(), [0, 1, 2, 4, 3]),
        # (11/30)^3 1, (71/10)^3 4, (81/20)^3 2 = 133, (91/40)^3 4 = 47, (96/10)^3 4
        (WFP3(published=True), [0, 3, 2, 1, 4]),
        # 91/80 = 1.1, 71/20 = 3.55, 81/20 = 4.05, 96/20 = 4.8, unbounded
        (UNICEP(published=True), [3, 1, 2, 4, 0]),
        (F1(), [0, 1, 2, 3, 4]),  # 871.5, 1609.2, 1658.3, 1706.6, 1724.6
        (DRF(), [0, 1, 2, 3, 4]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_order_of_the_queue(rule, expected):
    assert order(rule, QUEUE) == expected
    assert decide(rule, QUEUE) == (expected[0], 0)


def test_published_keys_use_a_scheduled_time_of_minus_one():
    # 100 s on 8 processors, submitted at 58 s
    observation = observe([50], [8], capacity=((256,),), time=999, release=[29], tick_seconds=2.0)
    assert WFP3(published=True).priority(observation)[0] == pytest.approx(
        0.59 * 2
    )  # the cube root of the utility
    assert UNICEP(published=True).priority(observation)[0] == pytest.approx(59 / 300)
    assert WFP3().priority(observation)[0] == pytest.approx(-19.4 * 2)
    assert UNICEP().priority(observation)[0] == pytest.approx(-1940 / 300)
    assert HRRN().priority(observation)[0] == pytest.approx(-19.4)


def test_equal_response_ratios_go_by_release():
    # 49 s of waiting for 49 s, and 1 s for 1 s: 49 * (1 / 49) would be below 1
    observation = observe([49, 1], time=49, release=[0, 48])
    for rule in (HRRN(), WFP3()):
        assert len(set(rule.priority(observation).tolist())) == 1
        assert order(rule, observation) == [0, 1]


def test_f1_is_in_seconds_and_replaces_a_release_of_0_by_0_1():
    observation = observe(
        [50, 50], [8, 8], capacity=((256,),), time=9, release=[0, 5], tick_seconds=2.0
    )
    assert F1().priority(observation) == pytest.approx([2 * 8 - 870, 2 * 8 + 870])


def test_drf_starts_a_task_of_the_tenant_with_the_lowest_dominant_share():
    running = [(0, 9, [4, 0], 0), (0, 9, [1, 30], 1)]  # dominant shares 4/16 and 30/100
    observation = observe(
        [5, 5, 5], [[1, 1]] * 3, capacity=((8, 50), (8, 50)), running=running, tenant=[1, 0, 0]
    )
    assert DRF().priority(observation).tolist() == [0.3, 0.25, 0.25]
    assert decide(DRF(), observation)[0] == 1
    assert order(DRF(), observe([5, 5], tenant=[3, 1])) == [0, 1]


def test_edf_without_due_dates_is_fifo():
    assert order(EDF(), observe([9, 1, 5], time=5, release=[0, 1, 2])) == [0, 1, 2]


def test_agent_choice_is_by_duration_then_best_fit_then_index():
    assert decide(FIFO(), observe([[5, 4, 6]], capacity=((4,), (4,), (4,)))) == (0, 1)
    assert decide(FIFO(), observe([5], [2], capacity=((4,), (3,), (3,)))) == (0, 1)
    busy = observe([5], [2], capacity=((4,), (4,), (8,)), running=[(1, 99, [1])])
    assert decide(FIFO(), busy) == (0, 1)


def test_a_blocking_rule_waits_for_its_head_and_a_skipping_rule_does_not():
    observation = observe([10, 20, 5], [4, 1, 2], running=[(0, 30, [2])])
    assert decide(FIFO(skip=False), observation) is None
    assert decide(FIFO(skip=True), observation) == (1, 0)
    assert decide(SJF(skip=True), observation) == (2, 0)
    assert decide(SJF(skip=False), observation) == (2, 0)  # the head itself fits
    assert decide(LJF(skip=False), observe([10, 20], [1, 4], running=[(0, 30, [2])])) is None
    no_wait = observe([10, 20], [4, 1], running=[(0, 30, [2])], wait=False)
    # Where waiting is illegal the first task that fits starts.
    assert decide(FIFO(skip=False), no_wait) == (1, 0)
    assert decide(FIFO(), observe([10], [4], running=[(0, 30, [2])])) is None


def test_unreleased_tasks_are_ignored():
    observation = observe([9, 8, 1], time=5, release=[0, 5, 6], wait=True)
    assert decide(SJF(), observation) == (1, 0)
    # The shorter unreleased task is not the head of the queue.
    assert decide(SJF(skip=False), observation) == (1, 0)
    assert decide(MinMin(), observation) == (1, 0)
    later = observe([9, 1], [4, 1], time=5, release=[0, 6], running=[(0, 7, [1])])
    assert decide(SJF(), later) is None
    assert SJF.observe == MinMin.observe == Random.observe == "arrived"


# -- rules by completion time ---------------------------------------------------------------------

MATRIX = [[6, 8], [4, 9], [9, 10]]  # best completions 6, 4, 9; sufferage 2, 5, 1


@pytest.mark.parametrize(
    ("rule", "expected"), [(EFT(), 0), (MinMin(), 1), (MaxMin(), 2), (Sufferage(), 1)]
)
def test_completion_rules_choose_by_their_key(rule, expected):
    observation = observe(MATRIX, capacity=((1,), (1,)))
    assert decide(rule, observation) == (expected, 0)
    ties = observe([[6, 8], [6, 8]], capacity=((1,), (1,)))
    assert decide(rule, ties) == (0, 0)


def test_sufferage_differs_from_min_min_and_prefers_tasks_of_one_agent():
    assert decide(Sufferage(), observe([[6, 9], [5, 7]], capacity=((1,), (1,)))) == (0, 0)
    assert decide(Sufferage(), observe([[1, 99], [50, -1]], capacity=((1,), (1,)))) == (1, 0)
    assert decide(Sufferage(), observe([6, 5], [1, 1])) == (0, 0)  # one agent: FIFO


def test_completion_rules_wait_for_a_better_agent():
    running = [(0, 3, [1])]  # on agent 0 task 0 ends at 5 < 9, task 1 at 13 > 8
    observation = observe([[2, 9], [10, 8]], capacity=((1,), (1,)), running=running)
    for rule in (EFT(), MinMin(), MaxMin(), Sufferage()):
        assert decide(rule, observation) == (1, 1)
    assert decide(FIFO(), observation) == (0, 1)
    alone = observe([[2, 9]], capacity=((1,), (1,)), running=running)
    assert decide(EFT(), alone) is None
    no_wait = observe([[2, 9]], capacity=((1,), (1,)), running=running, wait=False)
    assert decide(EFT(), no_wait) == (0, 1)
    as_early_as_waiting = observe([[2, 5]], capacity=((1,), (1,)), running=running)
    assert decide(EFT(), as_early_as_waiting) == (0, 1)


def test_tetris_aligns_demand_with_free_capacity():
    lopsided = observe([5, 5], [[1, 3], [3, 1]], capacity=((8, 8),), running=[(0, 9, [0, 4])])
    assert decide(Tetris(), lopsided) == (1, 0)  # 1/8 8/8 + 3/8 4/8 = 0.3125 < 3/8 8/8 + 1/8 4/8
    emptier = observe([5], [2], capacity=((8,), (8,)), running=[(0, 9, [4])])
    assert decide(Tetris(), emptier) == (0, 1)
    ties = observe([5, 3, 3], [2, 2, 2], capacity=((8,), (8,)))
    assert decide(Tetris(), ties) == (1, 0)  # by duration, then queue, then agent
    assert decide(Tetris(), observe([5], [4], running=[(0, 9, [2])])) is None


def test_tetris_commits_the_earliest_start_first():
    observation = observe([5, 5], [4, 2], running=[(0, 9, [2])], commit=True)
    assert decide(Tetris(), observation) == (1, 0)


# -- commit mode and budget sharing ----------------------------------------------------------------


def commit_all(rule, duration):
    """Return the completion ticks (N,) in commit mode of tasks released at 0, one per agent."""
    time = 0
    left = list(range(len(duration)))
    running = []
    ends = {}
    while left:
        active = [row for row in running if row[1] > time]
        observation = observe(
            [duration[j] for j in left],
            capacity=((1,),) * 3,
            time=time,
            running=active,
            commit=True,
        )
        task, agent = decide(rule, observation)
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
def test_commit_mode_gives_the_values_of_the_worked_example(rule, total, makespan):
    ends = commit_all(rule, [[500, 250, 125], [200, 100, 50], [800, 400, 200]])
    assert (sum(ends), max(ends)) == (total, makespan)


def test_commit_mode_commits_the_head_where_it_ends_first():
    observation = observe(
        [[4, 9], [1, 1]],
        [3, 1],
        capacity=((4,), (4,)),
        running=[(0, 6, [2]), (1, 5, [4])],
        commit=True,
    )
    assert decide(FIFO(skip=False), observation) == (0, 0)  # 6 + 4 < 5 + 9
    down = observe([4], capacity=((4,), (4,)), running=[(0, 6, [4])], up=[True, False], commit=True)
    assert decide(FIFO(), down) == (0, 0)
    no_completion = observe([4, 5], up=[False], commit=True)
    assert decide(MaxMin(), no_completion) == (0, 0)
    only_task_1 = observe([[4, -1], [-1, 5]], capacity=((4,), (4,)), up=[False, True], commit=True)
    for rule in (EFT(), MinMin(), MaxMin(), Sufferage()):
        assert decide(rule, only_task_1) == (1, 1)  # task 0 has no visible completion


def test_budget_sharing_chooses_the_cheapest_agent_that_fits():
    costs = [[7, 3, 5], [2, 9, 1]]
    usage = [2, 3]
    legal = [[True, False, True], [True, False, False]]
    observation = observe(costs, usage, capacity=((4,), (4,), (4,)), mask=[*np.ravel(legal), False])
    expected = {
        FIFO: (0, 2),
        SJF: (1, 0),
        EFT: (0, 2),
        MinMin: (1, 0),
        MaxMin: (0, 2),
        Sufferage: (1, 0),
    }
    for rule, pair in expected.items():
        assert decide(rule(), observation) == pair


# -- every rule of conf/solver --------------------------------------------------------------------


def random_observation(rng, commit):
    """Return an observation with several types, tenants, outages and unreleased tasks."""
    p, m, r, t = rng.integers(1, 9), rng.integers(1, 6), rng.integers(1, 4), rng.integers(1, 4)
    capacity = rng.integers(2, 9, (m, r))
    duration = np.where(rng.random((p, t)) < 0.2, -1, rng.integers(1, 30, (p, t)))
    demand = np.minimum(rng.integers(0, 9, (p, t, r)), capacity.max(0))
    running = []
    left = capacity.copy()
    for agent in rng.integers(0, m, rng.integers(0, 5)):
        held = rng.integers(0, left[agent] + 1)
        left[agent] -= held
        end = rng.integers(15, 50)  # now is 20: some tasks have outlived their estimate
        running.append((agent, end, held, rng.integers(0, 2)))
    tenants = (
        {"tenant": rng.integers(0, 2, p), "tenant_free": rng.integers(0, 12, (2, r))}
        if rng.random() < 0.5
        else {}
    )
    return observe(
        duration,
        demand,
        capacity=capacity,
        running=running,
        commit=commit,
        time=20,
        release=np.sort(rng.integers(0, 25, p)),
        due=rng.integers(0, 90, p) if rng.random() < 0.5 else None,
        weight=rng.integers(0, 3, p),
        up=rng.random(m) < 0.9,
        agent_type=rng.integers(0, t, m),
        next_outage=np.where(rng.random(m) < 0.3, rng.integers(21, 60, m), NEVER),
        **tenants,
    )


def with_other_unreleased_tasks(observation, rng):
    """Return the observation with new random data of every unreleased task."""
    late = np.flatnonzero(observation.release > observation.time)
    changed = {
        "duration": observation.duration.copy(),
        "demand": observation.demand.copy(),
        "weight": observation.weight.copy(),
    }
    changed["duration"][late] = rng.integers(1, 30, changed["duration"][late].shape)
    changed["demand"][late] = 0
    changed["weight"][late] = 99
    return Observation(**{**vars(observation), **changed})


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_rule_is_legal_and_independent_of_unreleased_tasks(path):
    assert path.read_text().startswith("# ")
    rule = instantiate(OmegaConf.load(path))
    rng = np.random.default_rng(7)
    decisions = 0
    assert isinstance(rule, Policy)
    assert rule.observe == "arrived"
    for i in range(300):
        observation = random_observation(rng, commit=i % 2 == 1)
        if observation.mask.any() and (observation.release <= observation.time).any():
            action = rule.act(observation, np.random.default_rng(i))
            assert isinstance(action, int)
            assert observation.mask[action]
            assert (
                rule.act(with_other_unreleased_tasks(observation, rng), np.random.default_rng(i))
                == action
            )
            decisions += 1
    assert decisions > 100


def test_conf_has_every_rule():
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


def test_random_is_uniform_over_legal_actions():
    observation = observe([5, 5], [4, 2], running=[(0, 9, [2])])
    rng = np.random.default_rng(1)
    counts = np.bincount([Random().act(observation, rng) for _ in range(4000)], minlength=3)
    assert counts[0] == 0
    assert abs(counts[1] - 2000) < 200
    assert decide(Random(), observe([5], [4], running=[(0, 9, [2])])) is None
