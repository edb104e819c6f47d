"""d3rlpy with masks: no algorithm prefers, bootstraps from or imitates an illegal action."""

import ast
import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from solvers.offline.buffer import OfflineBuffer, q_values
from solvers.offline.d3rlpy_adapter.training import to_mini_batch, to_replay_buffer
from tests.configured import slow
from tests.solvers.offline.logged import (
    CPU,
    LEARNERS,
    TRANSITION_LEARNERS,
    VARIANTS,
    make_learner,
    record_log,
)

LOG = record_log()
ROOT = Path(__file__).parents[3]


def make_algorithm(name, buffer, **changes):
    return make_learner(name, LOG, **{"steps": 8, "fqe_steps": 5, **changes}).make_algorithm(buffer)


def imports_d3rlpy(path):
    """Whether a file has an import of d3rlpy anywhere, and whether one is outside of functions."""
    tree = ast.parse(path.read_text())
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        if any(name.split(".")[0] == "d3rlpy" for name in names):
            found.add(node)
    return bool(found), bool(found - inner)


def test_only_the_adapter_imports_d3rlpy():
    adapter = ROOT / "solvers" / "offline" / "d3rlpy_adapter"
    anywhere = set()
    outside_functions = set()
    for package in ("bench", "datasets", "solvers"):
        for path in (ROOT / package).rglob("*.py"):
            imported, at_import_time = imports_d3rlpy(path)
            if imported and path.parent != adapter:
                anywhere.add(path.relative_to(ROOT).as_posix())
            if at_import_time and path.parent != adapter:
                outside_functions.add(path)
    assert imports_d3rlpy(adapter / "algorithms.py") == (True, True)
    assert anywhere == {"solvers/networks/decision_transformer.py"}
    assert not outside_functions


def test_learners_are_built_without_importing_d3rlpy():
    code = (
        "import sys; from solvers.offline import learners, to_online; "
        "learners.CQL(logs=None); learners.DecisionTransformer(logs=None); "
        "print('d3rlpy' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", slow(TRANSITION_LEARNERS, *VARIANTS))
def test_no_algorithm_chooses_an_illegal_action_before_or_after_training(name):
    torch.manual_seed(0)
    buffer = OfflineBuffer(LOG, CPU, reward_scale=10.0)
    learner = make_learner(name, LOG)
    algorithm = learner.make_algorithm(buffer)
    sampler = learner.make_sampler(buffer)
    flat = LOG.observation[LOG.state]
    mask = LOG.mask
    rows = np.arange(len(mask))
    for _ in range(3):
        assert mask[rows, algorithm.predict(flat)].all()  # on flat vectors, as d3rlpy has them
        assert mask[rows, algorithm.sample_action(flat)].all()
        for _ in range(10):
            loss = algorithm.update(sampler.sample_transition_batch(32))
            assert all(math.isfinite(value) for value in loss.values()), loss


def test_d3rlpy_loads_a_log_that_was_dumped(tmp_path):
    """The last decision of a truncated episode did not terminate it."""
    import d3rlpy

    cut = dataclasses.replace(LOG, terminated=LOG.terminated.copy(), truncated=LOG.truncated.copy())
    last = int(LOG.length[0]) - 1
    cut.terminated[last] = False
    cut.truncated[last] = True
    with open(tmp_path / "log.h5", "w+b") as file:
        to_replay_buffer(cut).dump(file)
    with open(tmp_path / "log.h5", "rb") as file:
        loaded = d3rlpy.dataset.ReplayBuffer.load(file, d3rlpy.dataset.InfiniteBuffer())
    observations = np.concatenate([e.observations for e in loaded.episodes])
    assert np.array_equal(observations, LOG.observation[LOG.state])
    assert np.array_equal(np.concatenate([e.actions[:, 0] for e in loaded.episodes]), LOG.action)
    assert np.allclose(np.concatenate([e.rewards[:, 0] for e in loaded.episodes]), LOG.reward)
    assert [e.terminated for e in loaded.episodes] == [False] + [True] * (len(LOG.length) - 1)
    assert loaded.dataset_info.action_size == LOG.layout.actions


@pytest.mark.parametrize("name", slow(TRANSITION_LEARNERS, *VARIANTS))
def test_batches_of_d3rlpy_and_of_the_offline_buffer_give_the_same_update(name):
    buffer = OfflineBuffer(LOG, CPU)
    learner = make_learner(name, LOG)
    stock = learner.make_d3rlpy_buffer(dataclasses.replace(LOG, reward=buffer.unscaled_reward))
    torch.manual_seed(0)
    batch = stock.sample_transition_batch(16)
    decision = {row.tobytes(): t for t, row in enumerate(LOG.observation[LOG.state])}
    indices = torch.tensor([decision[row.tobytes()] for row in batch.observations])
    algorithms = []
    for _ in range(2):
        torch.manual_seed(1)
        algorithms.append(learner.make_algorithm(buffer))
    torch.manual_seed(2)
    losses = algorithms[0].update(batch)
    torch.manual_seed(2)
    other = algorithms[1].update(to_mini_batch(buffer.transitions(indices), CPU))
    assert losses.keys() == other.keys()
    for key in losses:
        assert losses[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key


def test_the_conservative_term_and_the_bootstrapped_value_count_legal_actions_only():
    torch.manual_seed(0)
    buffer = OfflineBuffer(LOG, CPU)
    algorithm = make_algorithm("cql", buffer)
    batch = buffer.transitions(torch.arange(24))
    network = algorithm.q_network
    q = q_values(network, batch.state).double()
    terms = [
        row[mask].logsumexp(0) - row[action]
        for row, mask, action in zip(q, batch.state.mask, batch.action, strict=True)
    ]
    expected = float(torch.stack(terms).mean().detach())
    loss = algorithm.impl.compute_loss(to_mini_batch(batch, CPU), torch.zeros(24, 1))
    assert float(loss.conservative_loss.detach()) == pytest.approx(expected, rel=1e-4)
    target = algorithm.impl.compute_target(to_mini_batch(batch, CPU))[:, 0]
    next_q = q_values(network, batch.next_state).detach()  # the target network begins as a copy
    for value, row, mask, terminal in zip(
        target, next_q, batch.next_state.mask, batch.terminal, strict=True
    ):
        if not terminal:
            assert float(value) == pytest.approx(float(row[mask].max()), rel=1e-5)


def test_one_evaluation_of_the_network_gives_the_update_of_two():
    buffer = OfflineBuffer(LOG, CPU)
    learner = make_learner("cql", LOG)
    batch = to_mini_batch(buffer.transitions(torch.arange(32)), CPU)
    evaluations = []
    weights = []
    for make in (learner.make_algorithm, learner.make_stock_algorithm):
        torch.manual_seed(0)
        algorithm = make(buffer)
        counted = []
        algorithm.q_network.register_forward_hook(lambda *_, c=counted: c.append(1))
        algorithm.impl.compute_loss(batch, torch.zeros(32, 1))
        evaluations.append(len(counted))
        algorithm.update(batch)
        weights.append([p.clone() for p in algorithm.impl.q_function.parameters()])
    assert evaluations == [1, 2]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*weights, strict=True))


def test_bcq_takes_likely_actions_only():
    torch.manual_seed(0)
    buffer = OfflineBuffer(LOG, CPU)
    learner = make_learner("bcq", LOG, steps=8, flexibility=0.9)
    algorithm = learner.make_algorithm(buffer)
    sampler = learner.make_sampler(buffer)
    for _ in range(40):
        algorithm.update(sampler.sample_transition_batch(32))
    state = buffer.states.select(buffer.row)
    best = algorithm.impl.predict_best_action(state)
    probability = algorithm.impl.modules.imitator(state).probs
    taken = probability.gather(1, best[:, None])[:, 0]
    assert (taken >= 0.9 * probability.amax(dim=1) - 1e-6).all()
    network = learner.extract_network(algorithm, buffer)
    assert torch.equal(network(state.features)[0].argmax(dim=1), best)


@pytest.mark.parametrize("flexibility", [0.3, 1.0])
def test_bcq_takes_a_legal_action_at_every_flexibility(flexibility):
    buffer = OfflineBuffer(LOG, CPU)
    algorithm = make_algorithm("bcq", buffer, flexibility=flexibility)
    best = algorithm.impl.predict_best_action(buffer.states.select(buffer.row))
    assert buffer.states.mask[buffer.row].gather(1, best[:, None]).all()


def test_the_target_entropy_of_sac_counts_legal_actions_only():
    torch.manual_seed(0)
    buffer = OfflineBuffer(LOG, CPU)
    algorithm = make_algorithm("sac", buffer)
    state = buffer.states.select(buffer.row[:32])
    modules = algorithm.impl.modules
    before = float(modules.log_temp._parameter.detach())
    # A new policy is nearly uniform: it has more entropy than the target, so the temperature falls.
    for _ in range(5):
        algorithm.impl.update_temp(modules.policy(state))
    assert float(modules.log_temp._parameter.detach()) < before


def test_cdqac_takes_the_quantiles_of_the_critic_that_values_an_action_less():
    from solvers.offline.d3rlpy_adapter.cdqac import smaller_quantiles

    first = torch.tensor([[[0.0, 9.0], [1.0, 2.0]]])  # (B, A, n), means 4.5 and 1.5
    second = torch.tensor([[[4.0, 4.0], [-9.0, 99.0]]])  # means 4 and 45
    taken = smaller_quantiles(torch.stack([first, second]))
    assert taken.tolist() == [[[4.0, 4.0], [1.0, 2.0]]]


def quantile_huber(quantiles, target):
    """Return the loss of QR-DQN (arXiv:1710.10044, eq. 10), by its definition."""
    count = len(quantiles)
    total = 0.0
    for i, quantile in enumerate(quantiles):
        tau = (i + 0.5) / count
        for value in target:
            error = float(value - quantile)
            huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
            total += abs(tau - (error < 0)) * huber
    return total / len(target)


def test_the_losses_of_cdqac_follow_their_definitions():
    torch.manual_seed(0)
    buffer = OfflineBuffer(LOG, CPU)
    algorithm = make_algorithm("cdqac", buffer)
    impl = algorithm.impl
    sampler = make_learner("cdqac", LOG).make_sampler(buffer)
    for _ in range(20):  # critics and targets differ, and the policy is not uniform
        algorithm.update(sampler.sample_transition_batch(32))
    batch = buffer.transitions(torch.arange(16))

    def quantiles(q_funcs, state):
        return torch.stack([q_values(q.encoder.network, state).detach() for q in q_funcs])

    now = quantiles(impl.modules.q_funcs, batch.state)
    later = quantiles(impl.modules.targ_q_funcs, batch.next_state)
    logits = algorithm.policy_network(batch.state.features)[0].detach().double()
    next_logits = algorithm.policy_network(batch.next_state.features)[0].detach().double()
    td = conservative = policy = 0.0
    for b in range(16):
        target = torch.zeros(now.shape[3], dtype=torch.float64)
        if not batch.terminal[b]:
            for action, share in enumerate(next_logits[b].softmax(0)):
                if batch.next_state.mask[b, action]:
                    smaller = later[:, b, action].mean(dim=1).argmin()
                    target += share * later[smaller, b, action].double()
        target += batch.reward[b]
        mask = batch.state.mask[b]
        for critic in now:
            taken = critic[b, batch.action[b]]
            td += quantile_huber(taken.double(), target)
            means = critic[b][mask].double().mean(dim=1)
            conservative += float(means.logsumexp(0) - taken.double().mean())
        logp = logits[b][mask].log_softmax(0)
        q = now[:, b].double().mean(dim=2).amin(dim=0)[mask]
        policy -= float((logp.exp() * (q - 0.005 * logp)).sum())
    losses = impl.critic_losses(to_mini_batch(batch, CPU))
    assert float(losses[0].detach()) == pytest.approx(td / 16, rel=1e-4)
    assert float(losses[1].detach()) == pytest.approx(conservative / 16, rel=1e-4)
    assert float(impl.policy_loss(batch.state).detach()) == pytest.approx(policy / 16, rel=1e-4)


def test_cdqac_updates_its_policy_every_fourth_step_and_its_targets_at_each():
    torch.manual_seed(0)
    buffer = OfflineBuffer(LOG, CPU)
    learner = make_learner("cdqac", LOG)
    algorithm = learner.make_algorithm(buffer)
    modules = algorithm.impl.modules
    sampler = learner.make_sampler(buffer)

    def weights(network):
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    policy_changed, target_error = [], []
    for _ in range(8):
        policy, targets = weights(modules.policy), weights(modules.targ_q_funcs)
        algorithm.update(sampler.sample_transition_batch(16))
        policy_changed.append(not torch.equal(policy, weights(modules.policy)))
        expected = targets + 0.005 * (weights(modules.q_funcs) - targets)
        target_error.append(float((weights(modules.targ_q_funcs) - expected).abs().max()))
    assert policy_changed == [False, False, False, True] * 2
    assert max(target_error) < 1e-6


@pytest.mark.parametrize("name", slow(LEARNERS, *VARIANTS))
def test_a_restored_algorithm_trains_on_to_the_same_weights(name):
    learner = make_learner(name, LOG)
    buffer = OfflineBuffer(LOG, CPU)
    torch.manual_seed(3)
    original = learner.make_algorithm(buffer)
    sampler = learner.make_sampler(buffer)
    if name in TRANSITION_LEARNERS:
        batches = [sampler.sample_transition_batch(20) for _ in range(6)]
    else:
        batches = [sampler.sample_trajectory_batch(5, 4) for _ in range(6)]
    for batch in batches[:3]:
        original.update(batch)
    restored = learner.make_algorithm(buffer)
    restored.restore_state(original.saved_state())
    for algorithm in (original, restored):
        torch.manual_seed(4)
        for batch in batches[3:]:
            algorithm.update(batch)
    weights, expected = (
        learner.extract_network(algorithm, buffer).state_dict()
        for algorithm in (restored, original)
    )
    for key, value in expected.items():
        assert torch.equal(weights[key], value), key
