"""Decodings compared with the greedy episode, one another, exact optima and the budget."""

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
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.rl import decoding
from solvers.rl.beam import _first_occurrences, _state_columns
from solvers.rl.decoding import DECODINGS, DecodingPlanner, SampledEpisodes, inverse_cdf

CONF = Path(__file__).parents[3] / "conf"
CPU = torch.device("cpu")
SEARCHES = [name for name in DECODINGS if name != "greedy"]
ASSIGN = Setting(track="assign")


def small_instance(seed: int, n: int = 7, m: int = 3, **parts) -> Instance:
    """Return n tasks with releases on m agents of two types; all times are certain."""
    rng = np.random.default_rng(seed)
    duration, demand = rng.integers(1, 10, (n, 2)), rng.integers(1, 4, (n, 2, 2))
    fields = {
        "release": rng.integers(0, 8, n),
        "weight": rng.integers(1, 4, n),
        "due": rng.integers(5, 30, n),
    } | parts
    return Instance(duration, demand, np.full((m, 2), 4), rng.integers(0, 2, m), **fields)


def with_tenants_and_outages(seed: int) -> Instance:
    """Return an instance with quotas and with outages that kill tasks."""
    outages = (
        Outage(0, 5, 9, announced=False),
        Outage(1, 12, 14),
        Outage(2, 3, 6, announced=False),
    )
    return small_instance(seed, tenant=np.arange(7) % 2, quota=np.full((2, 2), 6), outages=outages)


def policy_of(seed: int, window: int = 16) -> NetworkPolicy:
    """Return an untrained policy with clear preferences."""
    torch.manual_seed(seed)
    network = PairwiseNetwork(8)
    with torch.no_grad():
        network.score[-1].weight *= 100
    return NetworkPolicy(network, window, CPU)


def plan(instance, policy, name, k, setting=Setting(), seconds=3600.0, **more):  # noqa: B008
    return DecodingPlanner(policy, name, k, **more).solve(
        instance, setting, Budget(seconds=seconds), np.random.default_rng(0)
    )


def greedy(instance, policy, setting=Setting()):  # noqa: B008
    return PolicySolver(policy).solve(instance, setting, Budget(), np.random.default_rng(0))


# -- every decoding ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODINGS)
@pytest.mark.parametrize("make", [small_instance, with_tenants_and_outages])
def test_no_decoding_is_worse_than_greedy_and_all_report_their_effort(name, make):
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
def test_with_one_rollout_every_decoding_is_greedy(name):
    for seed in range(6):
        instance, policy = small_instance(seed), policy_of(seed)
        one, alone = plan(instance, policy, name, 1), greedy(instance, policy)
        assert one.schedule.to_dict() == alone.schedule.to_dict()
        assert (one.info["best"], one.info["decisions"]) == (0, len(alone.latency))


@pytest.mark.parametrize("name", SEARCHES)
def test_the_window_may_be_smaller_than_the_queue(name):
    instance = small_instance(1, 12, release=np.zeros(12))
    policy = policy_of(1, window=4)
    result = plan(instance, policy, name, 8)
    assert not verify(instance, result.schedule)
    assert objective(instance, result.schedule, "total_time") <= objective(
        instance, greedy(instance, policy).schedule, "total_time"
    )


def test_the_planner_is_a_clairvoyant_solver_and_rejects_unknown_decodings():
    assert isinstance(DecodingPlanner(policy_of(0)), Solver)
    assert DecodingPlanner.clairvoyant
    with pytest.raises(ValueError, match="decoding: 'best' must be one of greedy, sample"):
        DecodingPlanner(policy_of(0), "best", 8)
    with pytest.raises(ValueError, match="decoding: rollouts=0 must be at least 1"):
        DecodingPlanner(policy_of(0), "sample", 0)


# -- episodes ------------------------------------------------------------------------------------


def total_time_after(instance: Instance, policy: NetworkPolicy, first: int) -> float:
    """Return the total time of the action `first` and greedy actions after it."""
    simulator = Simulator([instance], Setting(), window=instance.n_tasks)
    simulator.step(np.array([first]))
    while not simulator.terminated[0]:
        observation = simulator.observation(0)
        action = policy.act(observation, np.random.default_rng(0))
        simulator.step(np.array([simulator.flat(action, observation)]))
    return objective(instance, simulator.schedule(0), "total_time")


def test_multistart_tries_every_legal_first_action():
    for seed in range(5):
        instance, policy = small_instance(seed), policy_of(seed)
        legal = np.flatnonzero(Simulator([instance], Setting()).state.mask[0])
        value = min(total_time_after(instance, policy, action) for action in legal.tolist())
        result = plan(instance, policy, "multistart", len(legal))
        assert result.info["objective"] == pytest.approx(value)
        more = plan(instance, policy, "multistart", 4 * len(legal))
        assert more.info["objective"] <= value * (1 + 1e-12)


def test_multistart_begins_with_the_likeliest_first_actions():
    episodes = SampledEpisodes(DecodingPlanner(policy_of(0), "multistart", 3), 0)
    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0, 3.0])
    assert episodes.first_actions(logits).tolist() == [4, 1, 3]
    episodes.rollouts = 9
    assert episodes.first_actions(logits).tolist() == [4, 1, 3, 0]


@pytest.mark.parametrize("name", ["sample", "multistart"])
def test_the_size_of_the_chunks_changes_no_result(name):
    instance, policy = small_instance(3), policy_of(3)
    whole = plan(instance, policy, name, 40)
    cut = plan(instance, policy, name, 40, max_pairs=7 * instance.n_tasks * instance.n_agents)
    assert cut.schedule.to_dict() == whole.schedule.to_dict()
    for key in ("played", "best", "decisions", "objective"):
        assert cut.info[key] == whole.info[key]


def test_more_samples_are_never_worse():
    better = 0
    for seed in range(4):
        values = [
            plan(small_instance(seed), policy_of(seed), "sample", k).info["objective"]
            for k in (1, 2, 4, 16, 64)
        ]
        assert values == sorted(values, reverse=True)
        better += values[-1] < values[2]
    assert better


@pytest.mark.parametrize("name", SEARCHES)
def test_no_more_pairs_are_played_at_once_than_allowed(name, monkeypatch):
    sizes = []

    class RecordingSimulator(TensorSimulator):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            sizes.append(self.state.mask.numel() - self.num_envs)

    monkeypatch.setattr(decoding, "TensorSimulator", RecordingSimulator)
    result = plan(small_instance(0), policy_of(0), name, 50, max_pairs=200)
    assert 100 < max(sizes) <= 200
    assert result.info["played"] == (1 + 4 if name == "beam" else 50)


def test_actions_have_the_probabilities_of_the_softmax():
    probability = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    n = 1000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = inverse_cdf(probability.log().expand(n, -1), uniform)
    assert (torch.bincount(drawn, minlength=6) / n).tolist() == pytest.approx(
        probability.tolist(), abs=2e-3
    )
    extremes = torch.tensor([1e-18, 1.0], dtype=torch.float64)
    assert inverse_cdf(probability.log().expand(2, -1), extremes).tolist() == [1, 4]


def test_every_step_and_every_seed_draw_other_actions():
    logits, policy = torch.zeros(64, 10), policy_of(0)
    planner = DecodingPlanner(policy, "sample", 64)
    draws = [
        SampledEpisodes(planner, seed).draw_actions(logits, step, 0)
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (draws[one] != draws[other]).sum() > 32


def test_a_high_temperature_draws_almost_uniformly_and_a_low_one_greedily():
    logits = torch.tensor([[0.0, 3.0, -torch.inf]]).repeat(4000, 1)
    shares = []
    for temperature in (0.05, 1.0, 100.0):
        planner = DecodingPlanner(policy_of(0), "sample", 4000, temperature)
        drawn = SampledEpisodes(planner, 0).draw_actions(logits, 1, 0)
        shares.append((torch.bincount(drawn, minlength=3) / 4000).tolist())
    cold, plain, hot = shares
    assert cold == [0.0, 1.0, 0.0]
    assert plain[1] == pytest.approx(np.exp(3) / (1 + np.exp(3)), abs=0.02)
    assert hot[1] == pytest.approx(0.5, abs=0.05)
    assert plain[2] == hot[2] == 0.0


# -- beam ----------------------------------------------------------------------------------------


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
def test_a_beam_that_keeps_every_state_is_exact(seed):
    for instance, setting in (
        (small_instance(seed, 4, 2), Setting()),
        (small_instance(seed, 4, 2), Setting(objective="tardiness")),
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


def test_the_same_decisions_in_another_order_are_one_state():
    # 4 tasks, 2 agents that hold all tasks: l tasks are assigned in C(4, l) 2^l ways, and each has
    # (4 - l) 2 continuations (all plans cost the same, so none is dropped for its cost); the greedy
    # episode of 4 decisions comes before
    instance = Instance(
        np.ones((4, 2)), np.ones((4, 2, 1)), np.full((2, 1), 4), [0, 1], sharing="budget"
    )
    result = plan(instance, policy_of(0), "beam", 64, ASSIGN)
    assert result.info["decisions"] == 4 + 1 * 8 + 8 * 6 + 24 * 4 + 32 * 2
    assert _first_occurrences(torch.tensor([5, 3, 5, 3, 7])).tolist() == [0, 1, 4]


def test_states_that_differ_in_a_start_are_two():
    simulator = TensorSimulator([small_instance(0)], Setting(), 2)
    action = simulator.state.mask.argmax(dim=1)
    simulator.step(action)
    columns = _state_columns(simulator)
    assert torch.equal(columns[0], columns[1])
    task = int(action[1]) // 3
    simulator.state.task[1, START, task] += 1
    assert not torch.equal(*_state_columns(simulator))


def test_a_wider_beam_is_better_in_the_sum_over_instances():
    values = [
        sum(
            plan(small_instance(seed), policy_of(seed), "beam", k).info["objective"]
            for seed in range(6)
        )
        for k in (1, 4, 64)
    ]
    assert values[0] > values[1] > values[2]


# -- budget and dead ends ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
def test_the_budget_ends_the_search_but_not_the_greedy_episode(name):
    for seed in range(2):
        instance, policy = small_instance(seed), policy_of(seed)
        max_pairs = (128 if name == "beam" else 8) * instance.n_tasks * instance.n_agents
        short, long = (
            plan(instance, policy, name, 64, seconds=limit, max_pairs=max_pairs)
            for limit in (1e-9, 3600.0)
        )
        alone = objective(instance, greedy(instance, policy).schedule, "total_time")
        assert short.info["objective"] <= alone
        assert short.info["decisions"] < long.info["decisions"]
        if name != "beam":
            assert (short.info["played"], long.info["played"]) == (1, 64)


def test_a_feasible_episode_is_preferred_to_any_dead_end():
    rescued = 0
    for seed in range(6):
        instance = draw("cde"[seed % 3], 4, 12, np.random.default_rng(seed), "min")
        policy = policy_of(seed)
        results = [plan(instance, policy, "sample", k, ASSIGN) for k in (1, 8, 128)]
        feasible = [result.status == "feasible" for result in results]
        assert feasible == sorted(feasible)  # a feasible episode stays among more episodes
        for result in results:
            assert (result.status == "feasible") == (not verify(instance, result.schedule))
            assert (result.info["objective"] is None) == (result.status == "infeasible")
        rescued += feasible[-1] and not feasible[0]
    assert rescued >= 3


@pytest.mark.parametrize("name", DECODINGS)
def test_if_every_episode_is_a_dead_end_the_result_is_infeasible(name):
    instance = Instance([[3], [4], [5]], np.full((3, 1, 1), 2), [[3]], [0], sharing="budget")
    result = plan(instance, policy_of(0), name, 8, ASSIGN)
    assert (result.status, result.info["objective"], result.trajectory) == ("infeasible", None, ())
    assert len(result.schedule.task) == 1


# -- configurations ------------------------------------------------------------------------------


VARIANTS = {
    "ppo": ("sample", 128),
    "ppo_greedy": ("greedy", 1),
    "ppo_best_of_1024": ("sample", 1024),
    "ppo_multistart": ("multistart", 128),
    "ppo_beam": ("beam", 128),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_ppo_differ_in_their_decoding_only(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain, config = (
            dict(compose("config", [f"+solver={one}"]).solver) for one in ("ppo", name)
        )
    decoding, rollouts = VARIANTS[name]
    assert config == {**plain, "decoding": decoding, "rollouts": rollouts}
    instantiate(config)
