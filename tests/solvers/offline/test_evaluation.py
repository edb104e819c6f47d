"""Off-policy evaluation: estimates against hand calculation, enumeration and the simulator's truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.analysis import ope_metrics as dope
from bench.errors import UserError
from solvers.networks.pairwise import PairNetwork
from solvers.offline import evaluation
from solvers.offline.evaluation import Told
from solvers.offline.feed import Feed
from solvers.rl.rollouts import play_greedily
from tests.solvers.offline.logged import CPU, Greedy, logged

RNG = np.random.default_rng


def told(reward, ratio, q=None, value=None, instance=None):
    reward, ratio = np.array(reward, dtype=float), np.array(ratio, dtype=float)
    nothing = np.zeros((len(reward), reward.shape[1] + 1))
    q, value = (
        nothing[:, 1:] if q is None else np.array(q),
        nothing if value is None else np.array(value),
    )
    return Told(
        reward, ratio, q, value, np.arange(len(reward)) if instance is None else np.array(instance)
    )


def test_importance_sampling_by_hand():
    two = told([[-1.0, -2.0], [-3.0, -4.0]], [[2.0, 0.5], [1.0, 3.0]])
    assert evaluation.per_decision(two, RNG(0)).value == pytest.approx(
        ((2 * -1 + 1 * -2) + (1 * -3 + 3 * -4)) / 2
    )
    expected = (2 * -1 + 1 * -3) / 3 + (1 * -2 + 3 * -4) / 4
    assert evaluation.weighted(two, RNG(0)).value == pytest.approx(expected)
    assert evaluation.effective_size(two) == pytest.approx((1 + 3) ** 2 / (1 + 9))


def test_the_doubly_robust_estimate_by_hand_and_its_two_limits():
    q, value = [[-2.5, -1.5]], [[-2.0, -1.0, 0.0]]
    one = told([[-1.0, -2.0]], [[2.0, 0.5]], q, value)
    expected = -2.0 + 2 * (-1.0 + -1.0 - -2.5) + 1 * (-2.0 + 0.0 - -1.5)
    assert evaluation.doubly_robust(one, RNG(0)).value == pytest.approx(expected)
    without_model = told([[-1.0, -2.0]], [[2.0, 0.5]])
    assert (
        evaluation.doubly_robust(without_model, RNG(0)).value
        == evaluation.per_decision(without_model, RNG(0)).value
    )
    perfect = told([[-1.0, -2.0]], [[7.0, 9.0]], [[-3.0, -2.0]], [[-3.0, -2.0, 0.0]])
    assert evaluation.doubly_robust(perfect, RNG(0)).value == pytest.approx(
        -3.0
    )  # whatever the weights
    assert evaluation.direct(perfect, RNG(0)).value == pytest.approx(-3.0)


def test_one_instance_says_nothing_about_the_spread():
    one = told([[-1.0], [-2.0]], [[1.0], [1.0]], instance=[0, 0])
    for estimator in (
        evaluation.per_decision,
        evaluation.weighted,
        evaluation.doubly_robust,
        evaluation.direct,
    ):
        assert np.isnan([estimator(one, RNG(0)).low, estimator(one, RNG(0)).high]).all()
    assert evaluation.per_decision(one, RNG(0)).value == -1.5


def test_importance_sampling_is_unbiased_and_its_interval_covers():
    """One decision, two actions with rewards -1 and -3; behaviour 0.7 / 0.3, target 0.2 / 0.8: the truth is -2.6."""
    rng, covered, means = RNG(1), 0, []
    for _ in range(200):
        first = rng.random(100) < 0.7
        one = told(
            np.where(first, -1.0, -3.0)[:, None], np.where(first, 0.2 / 0.7, 0.8 / 0.3)[:, None]
        )
        estimate = evaluation.per_decision(one, rng)
        means.append(estimate.value)
        covered += estimate.low <= -2.6 <= estimate.high
    assert np.mean(means) == pytest.approx(-2.6, abs=4 * np.std(means) / np.sqrt(200))
    assert covered > 175


def test_where_no_weight_is_left_the_logged_mean_counts():
    one = told([[-1.0, -2.0], [-1.0, -4.0]], [[1.0, 0.0], [1.0, 0.0]])
    assert evaluation.weighted(one, RNG(0)).value == pytest.approx(-1.0 - 3.0)
    assert evaluation.effective_size(one) == 0.0


def test_episodes_on_one_instance_are_no_more_than_one_that_counts_as_often():
    """Forty copies of two episodes know no more than the two do; weights decide how much each counts in the mean."""
    two = told([[-1.0], [-3.0]], [[1.0], [1.0]])
    copies = told([[-1.0], [-3.0]] * 40, [[1.0], [1.0]] * 40, instance=[0, 1] * 40)
    for estimator in (evaluation.per_decision, evaluation.weighted, evaluation.doubly_robust):
        assert estimator(copies, RNG(0)) == estimator(two, RNG(0))
    apart = told([[-1.0], [-3.0]] * 40, [[1.0], [1.0]] * 40)
    assert (
        evaluation.per_decision(apart, RNG(0)).high
        < evaluation.per_decision(two, RNG(0)).high - 0.5
    )
    uneven = told([[-1.0], [-1.0], [-1.0], [-3.0]], [[1.0]] * 4, instance=[0, 0, 0, 1])
    found = evaluation.per_decision(uneven, RNG(0))
    assert (found.low, found.value, found.high) == (-3.0, -1.5, -1.0)


def test_an_evaluated_behaviour_is_worth_what_it_returned():
    """The log's own deterministic policy: ratios are 1 and every estimate is the logged mean, up to what Q gets wrong."""
    torch.manual_seed(0)
    network = PairNetwork(8, 1)
    simulator = logged()[1]
    log, _ = logged(policy=Greedy(network))
    feed = Feed(log, CPU, reward_scale=10.0)
    actions = evaluation.greedy_actions(network, feed)
    assert torch.equal(actions[feed.state], feed.action)
    fitted = evaluation.fitted_q(feed, actions[:, None], 400, 64, 3e-3, 16, 1)
    seen = evaluation.told_of(feed, evaluation.all_values(fitted, feed)[..., 0], actions)
    assert (seen.ratio == 1.0).all()
    truth = float(play_greedily(network, simulator).mean())
    assert log.returns.mean() == pytest.approx(truth, rel=1e-5)
    for estimator in (evaluation.per_decision, evaluation.weighted):
        assert estimator(seen, RNG(0)).value == pytest.approx(truth, rel=1e-5)
    assert evaluation.doubly_robust(seen, RNG(0)).value == pytest.approx(
        truth, rel=1e-5
    )  # the model's errors cancel
    assert evaluation.direct(seen, RNG(0)).value == pytest.approx(truth, rel=0.1)


def test_fitted_q_tells_good_policies_from_bad_ones():
    """Three policies on random logs: their true order and about their values, from -1.3 to -5.7.

    In one thread, as learners compute: the worst mostly waits where the log does not, and what is said of it depends on the
    last bits (-5.1 to -14 over 19 trainings with other batches, steps and rates).
    """
    torch.set_num_threads(1)
    log, simulator = logged(episodes=400)
    feed = Feed(log, CPU, reward_scale=10.0)
    networks, true = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        network = PairNetwork(8, 1)
        torch.nn.init.normal_(network.score[2].weight, std=1.0)
        networks.append(network)
        true.append(float(play_greedily(network, simulator).mean()))
    order = np.argsort(true)
    chosen = [int(order[0]), int(order[6]), int(order[11])]
    actions = torch.stack([evaluation.greedy_actions(networks[i], feed) for i in chosen], dim=1)
    torch.manual_seed(0)
    fitted = evaluation.fitted_q(feed, actions, 2000, 128, 3e-3, 16, 1)
    q = evaluation.all_values(fitted, feed)
    values = [
        evaluation.direct(evaluation.told_of(feed, q[..., c], actions[:, c]), RNG(0)).value
        for c in range(3)
    ]
    truth = np.array(true)[chosen]
    assert dope.rank_correlation(values, truth) == 1.0
    assert values == pytest.approx(truth, rel=0.25)
    assert values[1:] == pytest.approx(truth[1:], rel=0.1)


def test_without_probabilities_importance_sampling_refuses():
    log, _ = logged()
    with pytest.raises(
        UserError,
        match=r"importance sampling .* need the probability .* fitted Q evaluation does without",
    ):
        evaluation.needs_probabilities(replace(log, probability=None))
    evaluation.needs_probabilities(log)
