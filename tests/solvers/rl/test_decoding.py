"""Decodings: what they promise against the greedy episode, each other, exact optima and the budget."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from bench.contracts import Budget, Solver
from bench.instance import Instance, Outage
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator import Simulator
from bench.simulator.tables import START
from bench.simulator.tensors import TensorSimulator
from bench.verify import verify
from datasets.gap import draw
from solvers.cpsat import CpSat
from solvers.networks.pairwise import PairNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.rl import decoding
from solvers.rl.beam import _facts, _first_of_equals
from solvers.rl.decoding import DECODINGS, Planner, inverse

CONF = Path(__file__).parents[3] / "conf"
CPU = torch.device("cpu")
SEARCHES = [name for name in DECODINGS if name != "greedy"]
ASSIGN = Setting(track="assign")


def problem(seed: int, n: int = 7, m: int = 3, **parts) -> Instance:
    """Tasks with releases on agents of two types; all times are certain."""
    rng = np.random.default_rng(seed)
    duration, demand = rng.integers(1, 10, (n, 2)), rng.integers(1, 4, (n, 2, 2))
    fields = {
        "release": rng.integers(0, 8, n),
        "weight": rng.integers(1, 4, n),
        "due": rng.integers(5, 30, n),
    } | parts
    return Instance(duration, demand, np.full((m, 2), 4), rng.integers(0, 2, m), **fields)


def hard(seed: int) -> Instance:
    """With tenants and outages that kill."""
    outages = (
        Outage(0, 5, 9, announced=False),
        Outage(1, 12, 14),
        Outage(2, 3, 6, announced=False),
    )
    return problem(seed, tenant=np.arange(7) % 2, quota=np.full((2, 2), 6), outages=outages)


def policy_of(seed: int, window: int = 16) -> NetworkPolicy:
    """Untrained, but with opinions."""
    torch.manual_seed(seed)
    network = PairNetwork(8)
    with torch.no_grad():
        network.score[-1].weight *= 100
    return NetworkPolicy(network, window, CPU)


def plan(instance, policy, name, k, setting=Setting(), seconds=60.0, **more):  # noqa: B008
    return Planner(policy, name, k, **more).solve(
        instance, setting, Budget(seconds=seconds), np.random.default_rng(0)
    )


def greedy(instance, policy, setting=Setting()):  # noqa: B008
    return PolicySolver(policy).solve(instance, setting, Budget(), np.random.default_rng(0))


# -- what every decoding promises ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODINGS)
@pytest.mark.parametrize("make", [problem, hard])
def test_none_is_worse_than_greedy_and_all_say_what_they_did(name, make):
    better = 0
    for seed in range(6):
        instance, policy = make(seed), policy_of(seed)
        setting = Setting(
            objective=("total_time", "makespan", "tardiness", "bounded_slowdown")[seed % 4]
        )
        result = plan(instance, policy, name, 16, setting)
        assert not verify(instance, result.schedule)
        assert (result.status, result.info["decoding"]) == ("feasible", name)
        value = objective(instance, result.schedule, setting.objective)
        alone = objective(instance, greedy(instance, policy, setting).schedule, setting.objective)
        assert result.info["objective"] == pytest.approx(value, rel=1e-9)
        assert result.trajectory[-1][1] == result.info["objective"]
        values = [point[1] for point in result.trajectory]
        assert values == sorted(values, reverse=True)
        assert value <= alone * (1 + 1e-12)
        assert result.info["best"] > 0 or value == alone
        assert result.info["played"] == result.info["rollouts"] == (1 if name == "greedy" else 16)
        assert (
            result.info["decisions"] >= instance.n_tasks * result.info["played"] or name == "beam"
        )
        better += value < alone
    assert better >= 3 or name == "greedy"


@pytest.mark.parametrize("name", DECODINGS)
def test_one_rollout_is_the_greedy_episode(name):
    for seed in range(6):
        instance, policy = problem(seed), policy_of(seed)
        one, alone = plan(instance, policy, name, 1), greedy(instance, policy)
        assert one.schedule.to_dict() == alone.schedule.to_dict()
        assert (one.info["best"], one.info["decisions"]) == (0, len(alone.latency))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_window_smaller_than_the_queue(name):
    instance, policy = problem(1, 12, release=np.zeros(12)), policy_of(1, window=4)
    result = plan(instance, policy, name, 8)
    assert not verify(instance, result.schedule)
    assert objective(instance, result.schedule, "total_time") <= objective(
        instance, greedy(instance, policy).schedule, "total_time"
    )


def test_it_is_a_solver_and_refuses_what_means_nothing():
    assert isinstance(Planner(policy_of(0)), Solver)
    assert Planner.clairvoyant
    for name, k in (("best", 8), ("sample", 0)):
        with pytest.raises(ValueError, match="decoding"):
            Planner(policy_of(0), name, k)


# -- episodes --------------------------------------------------------------------------------------------------------


def forced(instance: Instance, policy: NetworkPolicy, first: int) -> float:
    """Total time of `first`, then greedily."""
    simulator = Simulator([instance], Setting(), window=instance.n_tasks)
    simulator.step(np.array([first]))
    while not simulator.terminated[0]:
        seen = simulator.observation(0)
        simulator.step(np.array([simulator.flat(policy.act(seen, np.random.default_rng(0)), seen)]))
    return objective(instance, simulator.schedule(0), "total_time")


def test_multistart_tries_every_legal_start():
    for seed in range(5):
        instance, policy = problem(seed), policy_of(seed)
        legal = np.flatnonzero(Simulator([instance], Setting()).state.mask[0])
        value = min(forced(instance, policy, action) for action in legal.tolist())
        result = plan(instance, policy, "multistart", len(legal))
        assert result.info["objective"] == pytest.approx(value)
        assert plan(instance, policy, "multistart", 4 * len(legal)).info["objective"] <= value * (
            1 + 1e-12
        )


def test_multistart_begins_with_the_likeliest_starts():
    episodes = decoding.Episodes(Planner(policy_of(0), "multistart", 3), 0)
    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0, 3.0])
    assert episodes.starts(logits).tolist() == [4, 1, 3]
    episodes.rollouts = 9
    assert episodes.starts(logits).tolist() == [4, 1, 3, 0]


@pytest.mark.parametrize("name", ["sample", "multistart"])
def test_chunks_change_nothing(name):
    instance, policy = problem(3), policy_of(3)
    whole = plan(instance, policy, name, 40)
    cut = plan(instance, policy, name, 40, pairs=7 * instance.n_tasks * instance.n_agents)
    assert cut.schedule.to_dict() == whole.schedule.to_dict()
    for key in ("played", "best", "decisions", "objective"):
        assert cut.info[key] == whole.info[key]


def test_more_samples_are_never_worse():
    better = 0
    for seed in range(4):
        values = [
            plan(problem(seed), policy_of(seed), "sample", k).info["objective"]
            for k in (1, 2, 4, 16, 64)
        ]
        assert values == sorted(values, reverse=True)
        better += values[-1] < values[2]
    assert better


@pytest.mark.parametrize("name", SEARCHES)
def test_no_more_plays_together_than_allowed(name, monkeypatch):
    sizes = []

    class Watched(TensorSimulator):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            sizes.append(self.state.mask.numel() - self.n_envs)

    monkeypatch.setattr(decoding, "TensorSimulator", Watched)
    result = plan(problem(0), policy_of(0), name, 50, pairs=200)
    assert max(sizes) <= 200
    assert result.info["played"] == (1 + 4 if name == "beam" else 50)


def test_actions_are_drawn_from_the_softmax():
    probability = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    n = 1000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = inverse(probability.log().expand(n, -1), uniform)
    assert (torch.bincount(drawn, minlength=6) / n).tolist() == pytest.approx(
        probability.tolist(), abs=2e-3
    )
    assert inverse(
        probability.log().expand(2, -1), torch.tensor([1e-18, 1.0], dtype=torch.float64)
    ).tolist() == [1, 4]


def test_every_step_and_seed_draws_anew():
    flat, policy = torch.zeros(64, 10), policy_of(0)
    draws = [
        decoding.Episodes(Planner(policy, "sample", 64), seed).drawn(flat, step, 0)
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert all((draws[0] != other).any() for other in draws[1:])


# -- beam ------------------------------------------------------------------------------------------------------------


def assignment(seed: int, n: int, m: int) -> Instance:
    rng = np.random.default_rng(seed)
    return Instance(
        rng.integers(1, 20, (n, m)),
        rng.integers(1, 4, (n, m, 1)),
        np.full((m, 1), n),
        np.arange(m),
        sharing="budget",
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_that_holds_every_state_is_exact(seed):
    for instance, setting in (
        (problem(seed, 4, 2), Setting()),
        (problem(seed, 4, 2), Setting(objective="tardiness")),
        (assignment(seed, 5, 2), ASSIGN),
    ):
        exact = CpSat(local_search=False).solve(
            instance, setting, Budget(threads=1), np.random.default_rng(0)
        )
        found = plan(instance, policy_of(seed), "beam", 500, setting)
        assert (exact.status, found.status) in (
            ("optimal", "feasible"),
            ("infeasible", "infeasible"),
        )
        if exact.status == "optimal":
            assert found.info["objective"] == pytest.approx(
                objective(instance, exact.schedule, setting.objective)
            )


def test_orders_of_the_same_decisions_are_one_state():
    # 4 tasks, 2 agents with room for all: l tasks are placed in C(4, l) 2^l ways, and each has (4 - l) 2 continuations
    # (all plans cost the same, so that none is dropped for its cost); the greedy episode of 4 decisions comes before
    instance = Instance(
        np.ones((4, 2)), np.ones((4, 2, 1)), np.full((2, 1), 4), [0, 1], sharing="budget"
    )
    assert (
        plan(instance, policy_of(0), "beam", 64, ASSIGN).info["decisions"]
        == 4 + 1 * 8 + 8 * 6 + 24 * 4 + 32 * 2
    )
    assert _first_of_equals(torch.tensor([5, 3, 5, 3, 7])).tolist() == [0, 1, 4]


def test_states_that_differ_in_a_start_are_two():
    simulator = TensorSimulator([problem(0)], Setting(), 2)
    action = simulator.state.mask.argmax(dim=1)
    simulator.step(action)
    facts = _facts(simulator)
    assert torch.equal(facts[0], facts[1])
    task = int(action[1]) // 3
    simulator.state.task[1, START, task] += 1
    assert not torch.equal(*_facts(simulator))


def test_a_wider_beam_finds_more_on_the_whole():
    values = [
        sum(plan(problem(seed), policy_of(seed), "beam", k).info["objective"] for seed in range(6))
        for k in (1, 4, 64)
    ]
    assert values[0] > values[1] > values[2]


# -- budget and dead ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
def test_the_budget_ends_it_and_greedy_is_always_there(name):
    for seed in range(2):
        instance, policy = problem(seed), policy_of(seed)
        pairs = (128 if name == "beam" else 8) * instance.n_tasks * instance.n_agents
        short, long = (
            plan(instance, policy, name, 64, seconds=limit, pairs=pairs) for limit in (1e-9, 60.0)
        )
        alone = objective(instance, greedy(instance, policy).schedule, "total_time")
        assert short.info["objective"] <= alone
        assert short.info["decisions"] < long.info["decisions"]
        if name != "beam":
            assert (short.info["played"], long.info["played"]) == (1, 64)


def test_dead_ends_lose_against_any_feasible_episode():
    rescued = 0
    for seed in range(6):
        instance, policy = (
            draw("cde"[seed % 3], 4, 12, np.random.default_rng(seed), "min"),
            policy_of(seed),
        )
        results = [plan(instance, policy, "sample", k, ASSIGN) for k in (1, 8, 128)]
        feasible = [result.status == "feasible" for result in results]
        assert feasible == sorted(feasible)  # once one is found it stays
        for result in results:
            assert (result.status == "feasible") == (not verify(instance, result.schedule))
            assert (result.info["objective"] is None) == (result.status == "infeasible")
        rescued += feasible[-1] and not feasible[0]
    assert rescued >= 3


@pytest.mark.parametrize("name", DECODINGS)
def test_where_every_episode_dead_ends_it_says_so(name):
    instance = Instance([[3], [4], [5]], np.full((3, 1, 1), 2), [[3]], [0], sharing="budget")
    result = plan(instance, policy_of(0), name, 8, ASSIGN)
    assert (result.status, result.info["objective"], result.trajectory) == ("infeasible", None, ())
    assert len(result.schedule.task) == 1


# -- configurations --------------------------------------------------------------------------------------------------


VARIANTS = {
    "ppo": ("sample", 128),
    "ppo_greedy": ("greedy", 1),
    "ppo_best_of_1024": ("sample", 1024),
    "ppo_multistart": ("multistart", 128),
    "ppo_beam": ("beam", 128),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_ppo_differ_in_how_they_decode_alone(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain, config = (
            dict(compose("config", [f"+solver={one}"]).solver) for one in ("ppo", name)
        )
    decoding, rollouts = VARIANTS[name]
    assert config == {**plain, "decoding": decoding, "rollouts": rollouts}
    instantiate(config)


def test_a_high_temperature_draws_almost_uniformly_and_a_low_one_greedily():
    logits = torch.tensor([[0.0, 3.0, -torch.inf]]).repeat(4000, 1)
    shares = [
        torch.bincount(
            decoding.Episodes(Planner(policy_of(0), "sample", 4000, temperature), 0).drawn(
                logits, 1, 0
            ),
            minlength=3,
        )
        for temperature in (0.05, 1.0, 100.0)
    ]
    cold, plain, hot = ((share / 4000).tolist() for share in shares)
    assert cold == [0.0, 1.0, 0.0]
    assert plain[1] == pytest.approx(np.exp(3) / (1 + np.exp(3)), abs=0.02)
    assert hot[1] == pytest.approx(0.5, abs=0.05)
    assert plain[2] == hot[2] == 0.0
