"""Online learning that begins with a policy learnt from a log."""

import pytest

from bench.errors import UserError
from solvers.networks.policy import load_policy
from solvers.offline.to_online import OfflineToOnline
from solvers.ppo import PPO
from tests.solvers.learning import small_learner
from tests.solvers.offline.logged import CPU, DATA, fit, make_learner, record_log, schedules

LOG = record_log(episodes=60)


@pytest.mark.parametrize("name", ["bc", "cql", "bcq"])
def test_ppo_begins_with_an_offline_policy(name, tmp_path):
    """A policy with a network of its own, one of a Q function, one of both."""
    policy, _ = fit(make_learner(name, LOG), tmp_path)
    ppo = small_learner(
        PPO,
        steps=8,
        minibatch=64,
        decoding="greedy",
        init_policy=str(tmp_path / "policy.pt"),
        lr=1e-9,  # nothing changes
    )
    tuned, _ = fit(ppo, tmp_path / "ppo", decisions=256)
    test = list(DATA.instances("test"))[:6]
    assert schedules(tuned, test) == schedules(policy, test)


def test_ppo_does_not_begin_with_a_policy_that_has_a_memory(tmp_path):
    fit(make_learner("decision_transformer", LOG), tmp_path)
    ppo = small_learner(PPO, steps=8, minibatch=64, init_policy=str(tmp_path / "policy.pt"))
    message = r"solver.init_policy: .*policy.pt: decides by its earlier decisions"
    with pytest.raises(UserError, match=message):
        fit(ppo, tmp_path, decisions=256)


def test_both_parts_are_recorded_and_a_resumed_run_skips_the_first(tmp_path):
    online = small_learner(PPO, steps=8, minibatch=64, decoding="greedy", lr=1e-9)
    both = OfflineToOnline(make_learner("bc", LOG), online)
    assert both.logs is both.offline.logs
    policy, logger = fit(both, tmp_path, decisions=256)
    test = list(DATA.instances("test"))[:6]
    offline_policy = load_policy(tmp_path / "offline" / "policy.pt", CPU)
    assert schedules(policy, test) == schedules(offline_policy, test)
    assert logger.facts["offline/learning/steps"] == 20
    assert logger.facts["logs/hash"] == LOG.hash
    assert "learning/decisions_to_sjf" in logger.facts
    names = [name for _, values in logger.logged for name in values]
    assert any(name.startswith("offline/losses/") for name in names)
    _, logger = fit(both, tmp_path, decisions=256)
    names = [name for _, values in logger.logged for name in values]
    assert not any(name.startswith("offline/") for name in names)
