"""Off-policy evaluation against hand calculation, enumeration and true returns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.analysis import ope_metrics
from bench.errors import UserError
from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline import evaluation
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.evaluation import OPEInputs
from solvers.rl.rollouts import play_greedily
from tests.solvers.offline.logged import CPU, GreedyPolicy, record_log, training_simulator

RNG = np.random.default_rng
ESTIMATORS = (
    evaluation.per_decision_importance_sampling,
    evaluation.weighted_importance_sampling,
    evaluation.doubly_robust,
)


def make_inputs(reward, ratio, q=None, value=None, instance=None):
    reward = np.array(reward, dtype=float)
    zeros = np.zeros((len(reward), reward.shape[1] + 1))
    return OPEInputs(
        reward=reward,
        ratio=np.array(ratio, dtype=float),
        q=zeros[:, 1:] if q is None else np.array(q),
        value=zeros if value is None else np.array(value),
        instance=np.arange(len(reward)) if instance is None else np.array(instance),
    )


def test_importance_sampling_by_hand():
    two = make_inputs([[-1.0, -2.0], [-3.0, -4.0]], [[2.0, 0.5], [1.0, 3.0]])
    expected = ((2 * -1 + 1 * -2) + (1 * -3 + 3 * -4)) / 2
    found = evaluation.per_decision_importance_sampling(two, RNG(0)).value
    assert found == pytest.approx(expected)
    expected = (2 * -1 + 1 * -3) / 3 + (1 * -2 + 3 * -4) / 4
    found = evaluation.weighted_importance_sampling(two, RNG(0)).value
    assert found == pytest.approx(expected)
    assert evaluation.effective_sample_size(two) == pytest.approx((1 + 3) ** 2 / (1 + 9))


def test_the_doubly_robust_estimate_by_hand_and_its_two_limits():
    q = [[-2.5, -1.5]]
    value = [[-2.0, -1.0, 0.0]]
    one = make_inputs([[-1.0, -2.0]], [[2.0, 0.5]], q, value)
    expected = -2.0 + 2 * (-1.0 + -1.0 - -2.5) + 1 * (-2.0 + 0.0 - -1.5)
    assert evaluation.doubly_robust(one, RNG(0)).value == pytest.approx(expected)
    without_model = make_inputs([[-1.0, -2.0]], [[2.0, 0.5]])
    importance_sampling = evaluation.per_decision_importance_sampling(without_model, RNG(0))
    assert evaluation.doubly_robust(without_model, RNG(0)).value == importance_sampling.value
    perfect = make_inputs([[-1.0, -2.0]], [[7.0, 9.0]], [[-3.0, -2.0]], [[-3.0, -2.0, 0.0]])
    found = evaluation.doubly_robust(perfect, RNG(0)).value
    assert found == pytest.approx(-3.0)  # whatever the weights
    assert evaluation.direct_method(perfect, RNG(0)).value == pytest.approx(-3.0)


def test_one_instance_gives_no_interval():
    one = make_inputs([[-1.0], [-2.0]], [[1.0], [1.0]], instance=[0, 0])
    for estimator in (*ESTIMATORS, evaluation.direct_method):
        estimate = estimator(one, RNG(0))
        assert np.isnan([estimate.low, estimate.high]).all()
    assert evaluation.per_decision_importance_sampling(one, RNG(0)).value == -1.5


def test_importance_sampling_is_unbiased_and_its_interval_covers_the_truth():
    """One decision, two actions with rewards -1 and -3: the true value is -2.6.

    The behaviour policy has the probabilities 0.7 and 0.3, the target policy 0.2 and 0.8.
    """
    rng = RNG(1)
    covered = 0
    means = []
    for _ in range(100):
        first = rng.random(100) < 0.7
        reward = np.where(first, -1.0, -3.0)[:, None]
        ratio = np.where(first, 0.2 / 0.7, 0.8 / 0.3)[:, None]
        inputs = make_inputs(reward, ratio)
        estimate = evaluation.per_decision_importance_sampling(inputs, rng)
        means.append(estimate.value)
        covered += estimate.low <= -2.6 <= estimate.high
    assert np.mean(means) == pytest.approx(-2.6, abs=4 * np.std(means) / np.sqrt(100))
    assert covered > 87


def test_where_all_weights_are_zero_the_mean_logged_reward_is_used():
    one = make_inputs([[-1.0, -2.0], [-1.0, -4.0]], [[1.0, 0.0], [1.0, 0.0]])
    found = evaluation.weighted_importance_sampling(one, RNG(0)).value
    assert found == pytest.approx(-1.0 - 3.0)
    assert evaluation.effective_sample_size(one) == 0.0


def test_intervals_resample_instances_not_episodes():
    """Forty copies of two episodes have the interval of the two; counts are weights in the mean."""
    two = make_inputs([[-1.0], [-3.0]], [[1.0], [1.0]])
    copies = make_inputs([[-1.0], [-3.0]] * 40, [[1.0], [1.0]] * 40, instance=[0, 1] * 40)
    for estimator in ESTIMATORS:
        assert estimator(copies, RNG(0)) == estimator(two, RNG(0))
    estimator = evaluation.per_decision_importance_sampling
    apart = make_inputs([[-1.0], [-3.0]] * 40, [[1.0], [1.0]] * 40)
    assert estimator(apart, RNG(0)).high < estimator(two, RNG(0)).high - 0.5
    uneven = make_inputs([[-1.0], [-1.0], [-1.0], [-3.0]], [[1.0]] * 4, instance=[0, 0, 0, 1])
    found = estimator(uneven, RNG(0))
    assert (found.low, found.value, found.high) == (-3.0, -1.5, -1.0)


def test_the_behaviour_policy_is_estimated_by_its_mean_return():
    """For the log's own deterministic policy the ratios are 1; only FQE has an error."""
    torch.manual_seed(0)
    network = PairwiseNetwork(8, 1)
    simulator = training_simulator()
    log = record_log(policy=GreedyPolicy(network))
    buffer = OfflineBuffer(log, CPU, reward_scale=10.0)
    actions = evaluation.greedy_actions(network, buffer)
    assert torch.equal(actions[buffer.row], buffer.action)
    fitted = evaluation.fitted_q_evaluation(buffer, actions[:, None], 400, 64, 3e-3, 16, 1)
    q = evaluation.all_q_values(fitted, buffer)[..., 0]
    inputs = evaluation.ope_inputs(buffer, q, actions)
    assert (inputs.ratio == 1.0).all()
    truth = float(play_greedily(network, simulator).mean())
    assert log.returns.mean() == pytest.approx(truth, rel=1e-5)
    for estimator in ESTIMATORS:  # in the doubly robust one the errors of the model cancel
        assert estimator(inputs, RNG(0)).value == pytest.approx(truth, rel=1e-5)
    assert evaluation.direct_method(inputs, RNG(0)).value == pytest.approx(truth, rel=0.1)


@pytest.mark.slow
def test_fitted_q_evaluation_ranks_policies_and_is_near_the_values_of_likely_ones():
    """Three policies on logs of random play, with true values from -1.3 to -5.7.

    The worst policy mostly waits where the log does not: its estimate depends on rounding (-5.1 to
    -14 over 19 trainings with other batches, steps and rates), so only its rank is tested.
    """
    torch.set_num_threads(1)
    log = record_log(episodes=400)
    simulator = training_simulator()
    buffer = OfflineBuffer(log, CPU, reward_scale=10.0)
    networks = []
    true = []
    for seed in range(12):
        torch.manual_seed(seed)
        network = PairwiseNetwork(8, 1)
        torch.nn.init.normal_(network.score[2].weight, std=1.0)
        networks.append(network)
        true.append(float(play_greedily(network, simulator).mean()))
    order = np.argsort(true)
    chosen = [int(order[0]), int(order[6]), int(order[11])]
    actions = torch.stack([evaluation.greedy_actions(networks[i], buffer) for i in chosen], dim=1)
    torch.manual_seed(0)
    fitted = evaluation.fitted_q_evaluation(buffer, actions, 2000, 128, 3e-3, 16, 1)
    q = evaluation.all_q_values(fitted, buffer)
    inputs = [evaluation.ope_inputs(buffer, q[..., c], actions[:, c]) for c in range(3)]
    values = [evaluation.direct_method(one, RNG(0)).value for one in inputs]
    truth = np.array(true)[chosen]
    assert ope_metrics.rank_correlation(values, truth) == 1.0
    assert values[1:] == pytest.approx(truth[1:], rel=0.1)


def test_importance_sampling_needs_probabilities():
    log = record_log()
    message = r"importance sampling .* need the probability .* fitted Q evaluation does without"
    with pytest.raises(UserError, match=message):
        evaluation.require_probabilities(replace(log, probability=None))
    evaluation.require_probabilities(log)
