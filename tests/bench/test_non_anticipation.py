"""Online policies are non-anticipative: decisions up to t do not depend on tasks with r_j > t.

Every configuration in conf/solver that is a policy or learns one is tested; none is listed by name.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from bench.contracts import SPLITS, Budget, Dataset, Learner, Policy
from bench.instance import Instance, Outage
from bench.plugins import register_resolvers
from bench.rollout import setting_of
from bench.setting import Setting
from bench.simulator import Simulator
from datasets.logs.recorded import Behaviour, RecordedLogs
from solvers.offline.to_online import OfflineToOnline
from solvers.ppo import PPO
from solvers.rules import Random as AnyLegal

CONF = Path(__file__).parents[2] / "conf"
register_resolvers()


def plugins():
    """Return name -> plug-in for all configurations in conf/solver."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = sorted(file.stem for file in (CONF / "solver").glob("*.yaml"))
        logs = "logs=cluster-tiny-random-v0"  # used by learners from logs only
        return {
            name: instantiate(compose("config", [f"+solver={name}", logs]).solver) for name in names
        }


def is_variant(plugin):
    """Return whether a plug-in differs from `ppo` only in decoding, which is not used online."""
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
    if isinstance(plugin, Learner) and not is_variant(plugin)
}
POLICIES = {name: plugin for name, plugin in PLUGINS.items() if isinstance(plugin, Policy)}
SETTINGS = {
    "fit": Setting(track="online", observe="arrived"),
    "sequential": Setting(
        track="online", observe="arrived", event_order="sequential", objective="tardiness"
    ),
    "commit": Setting(track="online", observe="arrived", mode="commit"),
    "easy": Setting(track="online", observe="arrived", mode="commit", backfill="easy"),
}


def tasks(rng, n, release):
    """Return fields of `n` tasks: 2 agent types, 2 resources, 2 tenants, wrong estimates."""
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
    """Return an instance of these tasks on three agents with outages and quotas."""
    outages = (Outage(0, 9, 12), Outage(1, 15, 19, announced=False), Outage(2, 30, 33))
    capacity = [[4, 6], [3, 3], [5, 4]]
    return Instance(
        **fields, capacity=capacity, agent_type=[0, 1, 0], quota=[[6, 7], [7, 6]], outages=outages
    )


def rewritten(fields, after, rng):
    """Return the fields with all tasks released after tick `after` replaced by others."""
    arrived = fields["release"] <= after
    n = int(rng.integers(0, 15))
    future = tasks(rng, n, np.sort(after + rng.integers(1, 40, n)))
    return {name: np.concatenate([value[arrived], future[name]]) for name, value in fields.items()}


def decisions(policy, problem, setting):
    """Play one episode; return [(tick, (task index in the instance, agent) or "wait")]."""
    simulator = Simulator([problem], setting, window=policy.window)
    policy.reset()
    order = np.lexsort((np.arange(problem.n_tasks), problem.release))
    rng = np.random.default_rng(7)
    made = []
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


def count_compared(policy, setting, n_instances=6):
    """Assert that decisions up to a random tick do not depend on tasks released later.

    Returns the number of decisions that were compared.
    """
    compared = 0
    for seed in range(n_instances):
        rng = np.random.default_rng(seed)
        fields = tasks(rng, 16, np.sort(rng.integers(0, 40, 16)))
        tick = int(rng.integers(5, 35))
        before = up_to(decisions(policy, instance(fields), setting), tick)
        after = up_to(decisions(policy, instance(rewritten(fields, tick, rng)), setting), tick)
        assert before == after
        compared += len(before)
    return compared


def test_the_policies_of_conf_are_found():
    assert len(POLICIES) >= 12


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", POLICIES)
def test_no_decision_depends_on_future_tasks(name, setting):
    assert count_compared(POLICIES[name], setting_of(POLICIES[name], SETTINGS[setting])) > 20


class RandomDataset(Dataset):
    """Eight random instances per split."""

    name = "random"

    def instances(self, split):
        for seed in range(8):
            rng = np.random.default_rng([seed, SPLITS.index(split)])
            yield instance(tasks(rng, 16, np.sort(rng.integers(0, 40, 16))))


class SilentLogger:
    """A training logger that stores nothing."""

    def __init__(self, folder):
        self.folder = folder

    def metrics(self, step, values):
        pass

    def summary(self, facts):
        pass

    def progress(self, done, total, note=""):
        pass


@pytest.mark.parametrize("name", LEARNERS)
def test_no_decision_of_a_learned_policy_depends_on_future_tasks(name, tmp_path):
    data = RandomDataset()
    budget = Budget(decisions=4000, threads=1)
    learner = LEARNERS[name]
    small = {"width": 16, "message_passing_rounds": 1}
    if isinstance(learner, OfflineToOnline):
        learner = learner.online  # the offline learner is tested by its own configuration
    if learner.logs is not None:
        logs = RecordedLogs(
            "played-v0", data, {"random": Behaviour(AnyLegal(), 16)}, asdict(SETTINGS["fit"])
        )
        logs.cache = tmp_path
        small |= {"logs": logs, "steps": 8, "candidates": 2, "fqe_steps": 5, "batch": 32}
    else:
        small |= {"num_envs": 16}
    learner = replace(learner, **small)
    rng = np.random.default_rng(0)
    policy = learner.fit(data, SETTINGS["fit"], budget, rng, SilentLogger(tmp_path))
    assert count_compared(policy, SETTINGS["fit"], n_instances=4) > 10
    assert count_compared(policy, SETTINGS["commit"], n_instances=4) > 10


class AnticipatingPolicy(Policy):
    """A policy whose action depends on the number of observed tasks, also of future ones."""

    def act(self, observation, rng):
        shown = len(observation.release)
        legal = np.flatnonzero(observation.mask)
        return int(legal[shown % len(legal)])


def test_a_policy_that_uses_future_tasks_fails_the_comparison():
    with pytest.raises(AssertionError):
        count_compared(AnticipatingPolicy(), Setting(observe="all"))
    assert count_compared(AnticipatingPolicy(), SETTINGS["fit"]) > 20
