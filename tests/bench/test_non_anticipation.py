"""Nobody who runs as `online` sees the future: rewriting every task with r_j > t changes no decision made up to t.

Every configuration of conf/solver that is a policy or learns one is tried, found by looking, not by name.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import bench.__main__  # noqa: F401 - knows the resolvers of conf/
from bench.contracts import SPLITS, Budget, Policy
from bench.instance import Instance, Outage
from bench.rollout import played_as
from bench.setting import Setting
from bench.simulator import Simulator
from datasets.logs.recorded import Behaviour, RecordedLogs
from solvers.offline.to_online import OfflineToOnline
from solvers.ppo import PPO
from solvers.rules import Random as AnyLegal

CONF = Path(__file__).parents[2] / "conf"


def plugins():
    """Name -> every plug-in of conf/solver."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = sorted(file.stem for file in (CONF / "solver").glob("*.yaml"))
        logs = "logs=cluster-tiny-random-v0"  # heard of by learners from logs only
        return {
            name: instantiate(compose("config", [f"+solver={name}", logs]).solver) for name in names
        }


def is_variant(plugin):
    """Differs from `ppo` in its decoding only, which plays no part online."""
    decoding = {"decoding": "sample", "rollouts": 128, "temperature": 2.0}
    return (
        plugin is not PLUGINS["ppo"]
        and type(plugin) is PPO
        and replace(plugin, **decoding) == PLUGINS["ppo"]
    )


PLUGINS = plugins()
LEARNERS = {
    name: plugin
    for name, plugin in PLUGINS.items()
    if hasattr(plugin, "fit") and not is_variant(plugin)
}
POLICIES = {
    name: p for name, p in PLUGINS.items() if isinstance(p, Policy) and name not in LEARNERS
}
SETTINGS = {
    "fit": Setting(track="online", observe="arrived"),
    "singly": Setting(track="online", observe="arrived", events="singly", objective="tardiness"),
    "commit": Setting(track="online", observe="arrived", mode="commit"),
    "easy": Setting(track="online", observe="arrived", mode="commit", backfill="easy"),
}


def tasks(rng, n, release):
    """Fields of `n` tasks on 2 agent types with 2 resources, 2 tenants, wrong estimates."""
    duration = rng.integers(1, 15, (n, 2))
    duration[rng.random(n) < 0.2, 1] = -1
    return {
        "duration": duration,
        "estimate": np.where(
            duration == -1, -1, np.maximum(1, duration + rng.integers(-4, 5, (n, 2)))
        ),
        "demand": np.repeat(rng.integers(0, 4, (n, 1, 2)), 2, axis=1),
        "release": release,
        "weight": rng.integers(0, 5, n),
        "due": release + rng.integers(0, 30, n),
        "tenant": rng.integers(0, 2, n),
        "kind": rng.integers(0, 4, n),
    }


def instance(fields):
    """`fields` of tasks on three agents with outages and quotas."""
    outages = (Outage(0, 9, 12), Outage(1, 15, 19, announced=False), Outage(2, 30, 33))
    capacity = [[4, 6], [3, 3], [5, 4]]
    return Instance(
        **fields, capacity=capacity, agent_type=[0, 1, 0], quota=[[6, 7], [7, 6]], outages=outages
    )


def rewritten(fields, after, rng):
    """The same up to tick `after`; another number of other tasks behind it."""
    past = fields["release"] <= after
    n = int(rng.integers(0, 15))
    future = tasks(rng, n, np.sort(after + rng.integers(1, 40, n)))
    return {name: np.concatenate([value[past], future[name]]) for name, value in fields.items()}


def decisions(policy, problem, setting):
    """[(tick, task and agent or wait)] of one episode; tasks are named by position in the instance."""
    simulator = Simulator([problem], setting, window=getattr(policy, "window", None))
    getattr(policy, "reset", lambda: None)()
    order = np.lexsort((np.arange(problem.n_tasks), problem.release))
    rng, made = np.random.default_rng(7), []
    while not simulator.terminated[0]:
        observation = simulator.observation(0)
        action = int(policy.act(observation, rng))
        position, agent = divmod(action, observation.n_agents)
        named = (
            "wait"
            if action == observation.wait
            else (int(order[simulator.state.window[0, position]]), agent)
        )
        made.append((observation.time, named))
        simulator.step(np.array([simulator.flat(action, observation)]))
    return made


def up_to(made, tick):
    return [decision for decision in made if decision[0] <= tick]


def check(policy, setting, rounds=6):
    """Any policy: its decisions up to a random tick do not depend on the tasks released later."""
    compared = 0
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        fields = tasks(rng, 16, np.sort(rng.integers(0, 40, 16)))
        tick = int(rng.integers(5, 35))
        before = up_to(decisions(policy, instance(fields), setting), tick)
        after = up_to(decisions(policy, instance(rewritten(fields, tick, rng)), setting), tick)
        assert before == after
        compared += len(before)
    return compared


def test_there_are_policies_to_test():
    assert len(POLICIES) >= 12


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", POLICIES)
def test_no_decision_depends_on_tasks_of_the_future(name, setting):
    assert check(POLICIES[name], played_as(POLICIES[name], SETTINGS[setting])) > 20


class Random:
    """A data set and the log of a run for a learner."""

    name = "random"

    def __init__(self, folder):
        self.folder = folder

    def instances(self, split):
        for seed in range(8):
            rng = np.random.default_rng([seed, SPLITS.index(split)])
            yield instance(tasks(rng, 16, np.sort(rng.integers(0, 40, 16))))

    def metrics(self, step, values):
        pass

    def summary(self, facts):
        pass

    def progress(self, done, total, note=""):
        pass


@pytest.mark.parametrize("name", LEARNERS)
def test_no_decision_of_a_learned_policy_depends_on_tasks_of_the_future(name, tmp_path):
    data, budget = Random(tmp_path), Budget(decisions=4000, threads=1)
    learner, small = LEARNERS[name], {"width": 16, "rounds": 1}
    if isinstance(learner, OfflineToOnline):
        learner = learner.online  # which goes on from what `offline` learns, as others here do
    if hasattr(learner, "logs"):
        logs = RecordedLogs(
            "played-v0", data, {"random": Behaviour(AnyLegal(), 16)}, asdict(SETTINGS["fit"])
        )
        logs.cache = tmp_path
        small |= {"logs": logs, "steps": 8, "candidates": 2, "fqe_steps": 5, "batch": 32}
    else:
        small |= {"envs": 16}
    learner = replace(learner, **small)
    policy = learner.fit(data, SETTINGS["fit"], budget, np.random.default_rng(0), data)
    assert check(policy, SETTINGS["fit"], rounds=4) > 10
    assert check(policy, SETTINGS["commit"], rounds=4) > 10


class Prophet:
    """Peeks: waits for tasks that only `observe: all` shows."""

    def act(self, observation, rng):
        shown = len(observation.release)
        legal = np.flatnonzero(observation.mask)
        return int(legal[shown % len(legal)])


def test_the_check_catches_a_policy_that_sees_the_future():
    with pytest.raises(AssertionError):
        check(Prophet(), Setting(observe="all"))
    assert check(Prophet(), SETTINGS["fit"]) > 20
