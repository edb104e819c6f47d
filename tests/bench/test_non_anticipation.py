"""Online policies are non-anticipative: decisions up to t do not depend on what lies after t.

Every configuration in conf/solver that is a policy or learns one is tested; none is listed by name.
"""

import copy
import itertools
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from bench.contracts import SPLITS, Budget, Dataset, Learner, Policy
from bench.instance import Instance, Outage
from bench.non_anticipation import check, replay, rewritten
from bench.rollout import LocalActor, setting_of
from bench.setting import Setting
from datasets.logs.recorded import Behaviour, RecordedLogs
from solvers import rolling
from solvers.offline.to_online import OfflineToOnline
from solvers.portfolio import RulePortfolio
from solvers.ppo import PPO
from solvers.rules import Random as AnyLegal
from tests.configured import slow, solvers


def is_variant(plugin):
    """Return whether a plug-in differs from `ppo` only in decoding, which is not used online."""
    decoding = {"decoding": "sample", "rollouts": 128, "temperature": 2.0}
    return (
        plugin is not BUILT["ppo"]
        and type(plugin) is PPO
        and replace(plugin, **decoding) == BUILT["ppo"]
    )


BUILT = solvers(Learner)
LEARNERS = {name: plugin for name, plugin in BUILT.items() if not is_variant(plugin)}
POLICIES = solvers(Policy)
SETTINGS = {
    "fit": Setting(track="online", observe="arrived"),
    "sequential": Setting(
        track="online", observe="arrived", event_order="sequential", objective="tardiness"
    ),
    "commit": Setting(track="online", observe="arrived", mode="commit"),
    "easy": Setting(track="online", observe="arrived", mode="commit", backfill="easy"),
}


# plans of CP-SAT take seconds; the same code makes them under the other settings
ALIKE_FOR_PLANS = ("sequential", "commit")


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


def count_compared(policy, setting, n_instances=3, played=None):
    """Assert that no decision up to a random tick depends on what lies after it.

    Returns the number of decisions that were compared; `played` gets the policies that made them.
    """
    played = [] if played is None else played

    def load():
        played.append(copy.deepcopy(policy))
        return LocalActor(played[-1])

    rngs = [np.random.default_rng(seed) for seed in range(n_instances)]
    problems = [instance(tasks(rng, 16, np.sort(rng.integers(0, 40, 16)))) for rng in rngs]
    outcome = check(
        load,
        problems,
        setting,
        [np.random.default_rng(7)] * n_instances,
        np.random.default_rng(1),
    )
    assert outcome.status == "checked", outcome.difference
    return outcome.compared


def test_the_policies_of_conf_are_found():
    assert len(POLICIES) >= 12


@pytest.fixture(autouse=True)
def no_limit_in_seconds(monkeypatch):
    """Rolling horizons stop by deterministic work alone, as on a machine that is not busy."""
    share = rolling.DETERMINISTIC_SHARE
    monkeypatch.setattr(rolling, "DETERMINISTIC_SHARE", share / 1000)
    for policy in POLICIES.values():
        if isinstance(policy, rolling.RollingHorizon):
            monkeypatch.setattr(policy, "seconds", 1000 * policy.seconds)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        pytest.param(
            name,
            setting,
            marks=[pytest.mark.slow]
            * (isinstance(POLICIES[name], RulePortfolio) and setting in ALIKE_FOR_PLANS),
        )
        for name in POLICIES
        for setting in SETTINGS
    ],
)
def test_no_decision_depends_on_future_tasks(name, setting):
    assert count_compared(POLICIES[name], setting_of(POLICIES[name], SETTINGS[setting])) > 20


class RandomDataset(Dataset):
    """Two random instances per split."""

    name = "random"

    def instances(self, split):
        for seed in range(2):
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


# learners whose policies decide by the code of others
SAME_POLICY = (
    *("a2c", "a3c", "reinforce", "self_labelling", "ppo_group", "ppo_pretrained", "ppo_offline"),
    *("bc", "cdqac", "cql_quantile", "double_dqn", "dqn", "iql", "nfq", "sac"),
)


@pytest.mark.parametrize("name", slow(LEARNERS, *SAME_POLICY))
def test_no_decision_of_a_learned_policy_depends_on_future_tasks(name, tmp_path):
    data = RandomDataset()
    budget = Budget(decisions=200, threads=1)  # whatever the weights are
    learner = LEARNERS[name]
    small = {"width": 16, "message_passing_rounds": 1}
    if isinstance(learner, OfflineToOnline):
        learner = learner.online  # the offline learner is tested by its own configuration
    if learner.logs is not None:
        logs = RecordedLogs(
            "played-v0", data, {"random": Behaviour(AnyLegal(), 8)}, asdict(SETTINGS["fit"])
        )
        logs.cache = tmp_path
        small |= {"logs": logs, "steps": 4, "candidates": 2, "fqe_steps": 2, "batch": 16}
    else:
        small |= {"num_envs": 16}
        small |= {"group": 4} if hasattr(learner, "group") else {}
    learner = replace(learner, **small)
    rng = np.random.default_rng(0)
    policy = learner.fit(data, SETTINGS["fit"], budget, rng, SilentLogger(tmp_path))
    assert count_compared(policy, SETTINGS["fit"], n_instances=2) > 10
    assert count_compared(policy, SETTINGS["commit"], n_instances=2) > 10


class AnticipatingPolicy(Policy):
    """A policy whose action depends on the number of observed tasks, also of future ones."""

    def act(self, observation, rng):
        shown = len(observation.release)
        legal = np.flatnonzero(observation.mask)
        return int(legal[shown % len(legal)])


class StackReader(Policy):
    """A policy that finds the simulator on the call stack; `what` reads the future from it."""

    def __init__(self, what):
        self.what = what

    def act(self, observation, rng):
        frame = sys._getframe()
        while "simulator" not in frame.f_locals:
            frame = frame.f_back
        (problem,) = frame.f_locals["simulator"].instances
        legal = np.flatnonzero(observation.mask)
        return int(legal[self.what(problem, observation.time) % len(legal)])


class Counter(Policy):
    """A policy that keeps a counter from one episode to the next."""

    def __init__(self):
        self.count = 0

    def act(self, observation, rng):
        self.count += 1
        legal = np.flatnonzero(observation.mask)
        return int(legal[self.count % len(legal)])


class Unreproducible(Counter):
    """A policy that decides by a counter that all its copies share."""

    counts = itertools.count()

    def act(self, observation, rng):
        self.count = next(self.counts)
        return super().act(observation, rng)


FUTURES = {
    "the number of tasks": lambda problem, now: problem.n_tasks,
    "the next arrival": lambda problem, now: int(
        problem.release[problem.release > now].min(initial=10**6)
    ),
    "the weights to come": lambda problem, now: int(problem.weight[problem.release > now].sum()),
    "true durations": lambda problem, now: int(problem.duration[problem.release <= now].sum()),
    "unannounced outages": lambda problem, now: sum(
        outage.start + outage.end for outage in problem.outages if not outage.announced
    ),
}


def outcome_of(policy, setting, problems, seed=1):
    """Return what `check` finds on the problems."""
    rngs = [np.random.default_rng(7)] * len(problems)
    fresh = lambda: LocalActor(copy.deepcopy(policy))  # noqa: E731
    return check(fresh, problems, setting, rngs, np.random.default_rng(seed))


def problems_of(count=4):
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    return [instance(tasks(rng, 16, np.sort(rng.integers(0, 40, 16)))) for rng in rngs]


@pytest.mark.parametrize("what", FUTURES)
def test_a_policy_that_reads_the_future_from_the_stack_fails(what):
    outcome = outcome_of(StackReader(FUTURES[what]), SETTINGS["fit"], problems_of(8))
    assert outcome.status == "failed"
    assert "changes" in outcome.difference
    assert "action" in outcome.difference


def test_a_reader_of_the_stack_that_ignores_the_future_passes():
    now = StackReader(lambda problem, now: int(problem.weight[problem.release <= now].sum()))
    assert outcome_of(now, SETTINGS["fit"], problems_of()).status == "checked"


def test_a_policy_that_learns_from_one_episode_to_the_next_is_replayed_as_it_was():
    policy = Counter()
    policy.count = 3
    assert outcome_of(policy, SETTINGS["fit"], problems_of()).status == "checked"
    assert policy.count == 3


def test_a_policy_that_decides_differently_by_itself_cannot_be_compared():
    assert outcome_of(Unreproducible(), SETTINGS["fit"], problems_of()).status == "not reproducible"


def test_nothing_is_compared_where_nothing_is_hidden():
    assert outcome_of(AnticipatingPolicy(), Setting(), problems_of()).status == "not applicable"
    gap = Instance([[2], [3]], [[[1]], [[1]]], [[2]], [0], sharing="budget")
    setting = Setting(track="assign", observe="arrived")
    assert outcome_of(AnticipatingPolicy(), setting, [gap]).status == "not applicable"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_rewritten_future_agrees_with_everything_observed_so_far(setting):
    """The simulator shows the same up to the tick, whatever is rewritten after it."""
    outcome = outcome_of(AnyLegal(), SETTINGS[setting], problems_of(12))
    assert outcome.status == "checked", outcome.difference
    assert outcome.compared > 100


def test_what_a_rewritten_future_changes():
    draw = np.random.default_rng(0)
    (problem,) = problems_of(1)
    first = replay(LocalActor(AnyLegal()), problem, SETTINGS["fit"], draw)
    tick = 14
    empty = rewritten(problem, first.schedule, tick, draw, others_arrive=False)
    other = rewritten(problem, first.schedule, tick, draw)
    arrived = problem.release <= tick
    known = int(arrived.sum())
    assert 0 < known < 16
    assert empty.n_tasks == known
    assert other.n_tasks == 16
    assert (other.release[known:] > tick).all()
    for one in (empty, other):
        for field in ("release", "estimate", "demand", "weight", "due", "tenant", "kind"):
            kept = getattr(problem, field)[arrived]
            assert np.array_equal(getattr(one, field)[:known], kept)
        assert (one.duration[:known] != problem.duration[arrived]).any()
        announced = [outage for outage in problem.outages if outage.announced]
        assert [outage for outage in one.outages if outage.announced] == announced
    assert empty.outages != problem.outages or other.outages != problem.outages


def test_a_policy_that_cannot_begin_decides_nothing():
    class Ends(AnyLegal):
        def reset(self) -> None:
            sys.exit(0)

    (problem,) = problems_of(1)
    played = replay(LocalActor(Ends()), problem, SETTINGS["fit"], np.random.default_rng(0))
    assert [one.action for one in played.decisions] == ["SystemExit: 0"]
    assert not len(played.schedule.task)


def test_a_policy_that_uses_future_tasks_fails_the_comparison():
    known = instance(tasks(np.random.default_rng(0), 16, np.arange(16)))
    first = replay(LocalActor(AnticipatingPolicy()), known, Setting(), np.random.default_rng(0))
    other = rewritten(known, first.schedule, 5, np.random.default_rng(0), others_arrive=False)
    again = replay(
        LocalActor(AnticipatingPolicy()), other, Setting(), np.random.default_rng(0), until=5
    )
    assert [one.action for one in first.decisions[:3]] != [
        one.action for one in again.decisions[:3]
    ]
    assert count_compared(AnticipatingPolicy(), SETTINGS["fit"]) > 20
