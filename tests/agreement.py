"""Checks that all ways to solve or play an instance agree with the verifier and with each other.

For a random edge case (`tests.edge_cases`): every schedule is verified, every objective is
recomputed exactly, and equals what the simulator's rewards add up to; no schedule is better than
the optimum of CP-SAT; no bound is above it; small instances are also enumerated.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction

import gymnasium
import numpy as np
import torch

import bench.simulator.gym  # noqa: F401  (registers the environment)
from bench import plugins
from bench.contracts import Budget, Policy
from bench.instance import Instance
from bench.left_shift import active, fits_alone
from bench.metrics import metrics, objective, penalty, trivial_bound
from bench.rollout import PolicySolver, setting_of
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator, layout_of, return_scale
from bench.verify import verify
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound
from solvers.cpsat import CpSat
from solvers.exact.assignment import annealing
from solvers.exact.objective_terms import Terms
from solvers.lagrangian import Lagrangian
from solvers.local_search import LocalSearch
from solvers.networks.base import Network
from solvers.networks.features import featurize
from solvers.networks.mlp import MLPNetwork
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy
from tests.edge_cases import MOST_TASKS, EdgeCase, edge_case, random_setting
from tests.solvers.brute_force import brute_force

BUDGET = Budget(seconds=600, threads=1)  # never used up: the searches end by themselves
CLOSE = 1e-9  # relative, of sums of rewards in float64
SLOWDOWN_GAP = 1e-3  # relative, of CP-SAT's bound on mean slowdowns of very long ticks
CPU = torch.device("cpu")
all_rules = functools.cache(plugins.rules)


@functools.cache
def networks() -> list[Network]:
    """Return untrained networks that fit every edge case."""
    torch.manual_seed(0)
    return [PairwiseNetwork(4, 1), MLPNetwork(MOST_TASKS, 3, 4)]


def check_seed(seed: int) -> None:
    """Check the edge case of a seed in all ways; an AssertionError names what disagrees."""
    rng = np.random.default_rng([15, seed])
    case = edge_case(rng)
    instance = case.instance
    setting = random_setting(instance, rng)
    name = setting.objective
    found = [
        *check_simulator([instance], setting, 3, rng),
        *check_gym(instance, setting, rng),
        *check_policies(instance, setting, rng),
    ]
    optimum = check_solvers(case, setting, rng)
    for source, schedule in found:
        feasible = not verify(instance, schedule)
        value = objective(instance, schedule, name)
        if optimum is None:
            assert not feasible, f"{source} is feasible, the exact solvers say nothing is"
        elif feasible:
            assert exact_cost(instance, schedule, name) >= optimum, source
        else:
            assert instance.sharing == "budget", f"{source}: {verify(instance, schedule)[0]}"
            assert value >= penalty(instance, name), source
        check_metrics(instance, schedule)


def check_batches(seeds: range) -> None:
    """Check the cases of several seeds in batches of those that can be padded together."""
    batches = defaultdict(list)
    for seed in seeds:
        instance = edge_case(np.random.default_rng([15, seed])).instance
        batches[instance.n_resources, instance.sharing].append(instance)
    rng = np.random.default_rng([16, seeds.start])
    for instances in batches.values():
        without_due = next((i for i in instances if i.due is None), instances[0])
        setting = random_setting(without_due, rng)
        for source, schedule in check_simulator(instances, setting, 2 * len(instances), rng):
            assert schedule.task.size, source


# -- playing ---------------------------------------------------------------------------------------


def check_simulator(
    instances: list[Instance], setting: Setting, num_envs: int, rng: np.random.Generator
) -> list[tuple[str, Schedule]]:
    """Play random legal actions; return the schedules (num_envs,), each with its source.

    The rewards are those of `Simulator`; the views of `TensorSimulator`, which shares its memory,
    give finite features.
    """
    window = int(rng.integers(1, max(i.n_tasks for i in instances) + 2))
    tensors = TensorSimulator(instances, setting, num_envs, window)
    simulator = tensors.host()
    returns = np.zeros(num_envs)
    for step in range(10_000):
        if simulator.terminated.all():
            break
        if step % 4 == 0:
            check_view(tensors)
        actions = np.full(num_envs, -1)
        for b in np.flatnonzero(~simulator.terminated):
            actions[b] = rng.choice(np.flatnonzero(simulator.state.mask[b]))
        returns += simulator.step(actions)
    found = []
    for b in range(num_envs):
        instance = instances[b % len(instances)]
        schedule = simulator.schedule(b)
        check_return(instance, schedule, setting, returns[b] * simulator.scale[b % len(instances)])
        found.append((f"environment {b}", schedule))
    return found


def check_view(simulator: TensorSimulator) -> None:
    """Check that features, and the flat vectors of logs, are finite."""
    view = from_simulator(simulator)
    for column in featurize(view):
        assert torch.isfinite(column.float()).all()
    flat = layout_of(simulator).flat(view, return_scale(simulator))
    assert flat.shape == (simulator.num_envs, layout_of(simulator).size)
    assert torch.isfinite(flat).all()


def check_return(
    instance: Instance, schedule: Schedule, setting: Setting, scaled_return: float
) -> None:
    """Check that minus the return times the scale is the objective, penalties included."""
    value = objective(instance, schedule, setting.objective)
    assert math.isclose(-scaled_return, value, rel_tol=CLOSE), (scaled_return, value)
    if not verify(instance, schedule):
        exact = exact_cost(instance, schedule, setting.objective)
        if setting.objective == "bounded_slowdown":
            assert math.isclose(value, exact, rel_tol=CLOSE)
        else:
            assert value == exact
        assert value < penalty(instance, setting.objective)


def check_gym(
    instance: Instance, setting: Setting, rng: np.random.Generator
) -> list[tuple[str, Schedule]]:
    """Play one episode of the Gymnasium environment with its own samples of legal actions."""
    env = gymnasium.make(
        "bench/Scheduling-v0",
        disable_env_checker=True,
        instances=[instance],
        setting=setting,
        window=int(rng.integers(1, instance.n_tasks + 2)),
    ).unwrapped
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    total, over = 0.0, False
    while not over:
        assert env.observation_space.contains(observation)
        observation, reward, over, truncated, _ = env.step(env.action_space.sample())
        assert not truncated
        total += reward
    assert env.observation_space.contains(observation)
    schedule = env.schedule()
    check_return(instance, schedule, setting, total * env.simulator.scale[0])
    return [("gymnasium", schedule)]


def check_policies(
    instance: Instance, setting: Setting, rng: np.random.Generator
) -> list[tuple[str, Schedule]]:
    """Roll out rules and untrained networks."""
    names = rng.choice(sorted(all_rules()), 3, replace=False).tolist()
    policies: dict[str, Policy] = {name: all_rules()[name] for name in names}
    if rng.random() < 0.2:
        network = networks()[int(rng.integers(2))]
        window = int(rng.integers(1, instance.n_tasks + 1))
        policies[network.kind] = NetworkPolicy(network, window, CPU)
    found = []
    for name, policy in policies.items():
        own = setting_of(policy, setting)
        result = PolicySolver(policy).solve(instance, own, BUDGET, rng)
        assert (result.status == "feasible") == (not verify(instance, result.schedule)), name
        found.append((name, result.schedule))
    return found


def check_metrics(instance: Instance, schedule: Schedule) -> None:
    """Check that metrics are finite or missing, and utilisations are shares."""
    values = metrics(instance, schedule)
    assert not any(map(math.isinf, values.values()))
    shares = [value for name, value in values.items() if name.startswith("utilisation_")]
    assert len(shares) == instance.n_resources
    if not verify(instance, schedule):
        assert all(math.isnan(share) or 0 <= share <= 1 + CLOSE for share in shares)


# -- solving ---------------------------------------------------------------------------------------


def check_solvers(case: EdgeCase, setting: Setting, rng: np.random.Generator) -> Fraction | None:
    """Run the solvers; return the optimum, None where no schedule is feasible."""
    instance = case.instance
    name = setting.objective
    free = Setting(track="assign" if instance.sharing == "budget" else "schedule", objective=name)
    full = bool(rng.random() < 0.5)
    result = CpSat(bounds=full, local_search=full).solve(instance, free, BUDGET, rng)
    optimum = None
    if result.status != "infeasible":
        assert verify(instance, result.schedule) == []
        bound = Fraction(result.lower_bound)
        optimum = exact_cost(instance, result.schedule, name)
        assert bound <= optimum
        assert trivial_bound(instance, name) <= optimum
        check_proof(instance, name, result.info["proof"], optimum)
        if name == "bounded_slowdown":  # fractions, which CP-SAT's integers approximate
            assert float(optimum - bound) <= SLOWDOWN_GAP * float(optimum)
            optimum = bound
        else:
            assert (result.status, bound) == ("optimal", optimum)
    check_enumeration(case, name, optimum)
    for source, other in other_solvers(instance, free, rng):
        if optimum is None:
            assert other is None or verify(instance, other), source
        elif other is not None:
            assert verify(instance, other) == [], source
            assert exact_cost(instance, other, name) >= optimum, source
    return optimum


def check_proof(instance: Instance, name: str, proof: dict, optimum: Fraction) -> None:
    """Check that the verifier's value of a proof, or of the root of a search, is a bound."""
    proof = proof.get("root") or proof
    if proof["kind"] == "search":
        return
    problem = ExactProblem(instance)
    bound = proven_bound(problem, ExactObjective(problem, name), proof)
    assert bound <= optimum, proof["kind"]


def check_enumeration(case: EdgeCase, name: str, optimum: Fraction | None) -> None:
    """Check an optimum by enumerating the schedules, of the small instance where there is one."""
    small = case.small
    if small is None:
        if case.instance.n_tasks > 3:
            return
        known = min(enumerate_active(case.instance, name), default=None)
        if optimum is None or known is None:
            assert optimum == known
        elif name == "bounded_slowdown":
            assert optimum <= known <= optimum * (1 + Fraction(SLOWDOWN_GAP))
        else:
            assert optimum == known
        return
    if small.due is None:
        small = Instance.from_dict(
            small.to_dict() | ({} if small.sharing == "budget" else {"due": small.release})
        )
    known = brute_force(small)[name] * case.factor(name)
    if optimum is None:
        assert math.isinf(known)
    elif name == "bounded_slowdown":
        assert math.isclose(known, optimum, rel_tol=SLOWDOWN_GAP)
    else:
        assert known == optimum


def enumerate_active(instance: Instance, name: str) -> Iterator[Fraction]:
    """Yield the cost of every active schedule, or of every feasible assignment."""
    n = instance.n_tasks
    options = [np.flatnonzero(fits_alone(instance, j)) for j in range(n)]
    orders = itertools.permutations(range(n)) if instance.sharing == "time" else [range(n)]
    for order, agents in itertools.product(orders, itertools.product(*options)):
        schedule = Schedule.from_assignment(instance, agents)
        if instance.sharing == "time":
            schedule = active(instance, Schedule.from_assignment(instance, agents, order))
        elif verify(instance, schedule):
            continue
        yield exact_cost(instance, schedule, name)


def other_solvers(
    instance: Instance, setting: Setting, rng: np.random.Generator
) -> list[tuple[str, Schedule | None]]:
    """Return what local search, and the Lagrangian relaxation where it can, find."""
    if instance.sharing == "time":
        result = LocalSearch(patience=1).solve(instance, setting, BUDGET, rng)
        assert result.lower_bound <= objective(instance, result.schedule, setting.objective)
        return [("local search", result.schedule)]
    found = [("annealing", annealing.improve(instance, None, 0.0, rng))]
    result = Lagrangian().solve(instance, setting, BUDGET, rng)
    assert result.status in ("optimal", "infeasible")
    schedule = result.schedule if result.status == "optimal" else None
    if schedule is not None:
        assert result.lower_bound == exact_cost(instance, schedule, setting.objective)
    return [*found, ("lagrangian", schedule)]


def exact_cost(instance: Instance, schedule: Schedule, name: str) -> Fraction:
    """Return the objective of a feasible schedule in exact arithmetic, by the verifier's code."""
    if instance.sharing == "budget":
        return Terms.of(instance, name).value(schedule.end[np.argsort(schedule.task)])
    problem = ExactProblem(instance)
    return Fraction(ExactObjective(problem, name).schedule_cost(schedule))
