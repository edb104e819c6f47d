"""One offline training: the split of the log, the selection of a policy, and the report."""

from dataclasses import replace

import numpy as np
import pytest

from solvers.offline.training import OfflineTraining, instances_of, split_by_instance
from tests.solvers.offline.logged import DATA, fit, make_learner, record_log

LOG = record_log(episodes=60)


@pytest.mark.parametrize("selection", ["fqe", "oracle", "last"])
def test_a_policy_is_selected_among_the_candidates(selection, tmp_path):
    _, logger = fit(make_learner("dqn", LOG, selection=selection, candidates=5), tmp_path)
    facts = logger.facts
    assert facts["learning/selection"] == selection
    values = facts["ope/fqe_of_candidates"]
    true = facts["ope/true_of_candidates"]
    assert len(values) == len(true) == 5
    if selection == "fqe":
        assert facts["learning/chosen"] == int(np.argmax(values)) + 1
    if selection == "last":
        assert facts["learning/chosen"] == 5
    assert facts["ope/true"] == true[facts["learning/chosen"] - 1]
    for name in ("fqe", "is", "wis", "dr"):
        estimates = facts[f"ope/{name}_of_candidates"]
        assert facts[f"ope/{name}"] == estimates[facts["learning/chosen"] - 1]
        assert facts[f"ope/{name}_low"] <= facts[f"ope/{name}"] <= facts[f"ope/{name}_high"]
        error = abs(facts[f"ope/{name}"] - facts["ope/true"])
        assert facts[f"ope/{name}_error"] == pytest.approx(error)
        regret = max(true) - true[int(np.argmax(estimates))]
        assert facts[f"ope/{name}_regret_1"] == pytest.approx(regret)


def test_without_probabilities_only_fitted_q_evaluation_is_reported(tmp_path):
    _, logger = fit(make_learner("bc", replace(LOG, probability=None)), tmp_path)
    assert "need the probability" in logger.facts["ope/refused"]
    assert logger.facts["ope/effective_episodes"] is None
    assert "ope/fqe" in logger.facts
    assert "ope/is" not in logger.facts
    assert "ope/dr" not in logger.facts


@pytest.mark.parametrize(("selection", "seconds"), [("fqe", 100.0), ("last", 0.0), ("oracle", 0.0)])
def test_an_evaluation_that_selects_is_a_training_cost(tmp_path, monkeypatch, selection, seconds):
    """Measured by a clock that only the evaluation advances."""
    now = [0.0]
    evaluate = OfflineTraining._evaluate

    def evaluate_slowly(training):
        now[0] += 100.0
        return evaluate(training)

    monkeypatch.setattr("time.process_time", lambda: now[0])
    monkeypatch.setattr(OfflineTraining, "_evaluate", evaluate_slowly)
    _, logger = fit(make_learner("bc", LOG, selection=selection), tmp_path)
    assert logger.facts["learning/cpu_seconds"] == seconds


def test_no_instance_is_in_both_parts_of_a_split():
    training, held_out = split_by_instance(LOG, 0.3, np.random.default_rng(0))
    assert sorted(training + held_out) == list(range(60))
    assert not {LOG.instance[e] for e in training} & {LOG.instance[e] for e in held_out}
    assert len({LOG.instance[e] for e in held_out}) == round(0.3 * 24)


def test_instances_are_found_by_their_hash():
    instances = instances_of(LOG, DATA.instances("train"))
    assert [instance.hash() for instance in instances] == list(LOG.instance)


def test_the_mean_return_of_a_behaviour_policy_is_reported(tmp_path):
    assert LOG.return_by_behaviour == {"who": pytest.approx(LOG.returns.mean())}
    _, logger = fit(make_learner("bc", LOG), tmp_path)
    assert logger.facts["logs/best_behaviour_return"] == pytest.approx(LOG.returns.mean())
    assert logger.facts["learning/rewards"] == "shaped"
