"""The networks over pairs depend on no index, padding or size, and their gradients are right."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks import graph
from solvers.networks.attention import AttentionNetwork, CrossAttention
from solvers.networks.features import CAN_RUN, PAIR_FEATURES, Features, featurize
from solvers.networks.graph import CompiledGraph, PaddedGraph
from solvers.networks.pairwise import PairwiseNetwork
from solvers.rl.rollouts import play_greedily
from tests.solvers.learning import complex_instance, random_instance

NETWORKS = [PairwiseNetwork, AttentionNetwork]


def with_biases(
    width: int = 8, message_passing_rounds: int = 3, kind: type[PairwiseNetwork] = PairwiseNetwork
) -> PairwiseNetwork:
    """Return a network whose biases are not zero, so that padding could change its output."""
    torch.manual_seed(0)
    network = kind(width, message_passing_rounds)
    for name, weight in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return network


def features_at_start(
    instances: list[Instance], setting: Setting | None = None, window: int | None = None
) -> Features:
    simulator = TensorSimulator(instances, setting or Setting(), window=window)
    return featurize(from_simulator(simulator))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("message_passing_rounds", [1, 3])
def test_scores_follow_a_permutation_of_tasks_and_agents(message_passing_rounds, kind):
    rng = np.random.default_rng(1)
    f = features_at_start([random_instance(rng, 6, 3)])
    tasks, agents = torch.from_numpy(rng.permutation(6)), torch.from_numpy(rng.permutation(3))
    mask = f.mask[:, :-1].view(1, 6, 3)[:, tasks][:, :, agents].flatten(1)
    permuted = Features(
        task=f.task[:, tasks],
        agent=f.agent[:, agents],
        pair=f.pair[:, tasks][:, :, agents],
        shown=f.shown[:, tasks],
        present=f.present[:, agents],
        mask=torch.cat([mask, f.mask[:, -1:]], dim=1),
        load=f.load,
    )
    network = with_biases(8, message_passing_rounds, kind)
    logits, value = network(f)
    permuted_logits, permuted_value = network(permuted)
    torch.testing.assert_close(
        logits[0, :-1].view(6, 3)[tasks][:, agents], permuted_logits[0, :-1].view(6, 3)
    )
    torch.testing.assert_close((logits[0, -1], value), (permuted_logits[0, -1], permuted_value))
    # equal scores would follow every permutation
    assert logits[0, :-1][f.mask[0, :-1]].std() > 1e-4


def test_features_follow_a_permutation_of_tasks_and_agents():
    rng = np.random.default_rng(1)
    one = random_instance(rng, 6, 3)
    tasks, agents = rng.permutation(6), rng.permutation(3)
    plain, permuted = (
        features_at_start(
            [
                Instance(
                    one.duration[t],
                    one.demand[t],
                    one.capacity[a],
                    one.agent_type[a],
                    weight=one.weight[t],
                )
            ]
        )
        for t, a in ((np.arange(6), np.arange(3)), (tasks, agents))
    )
    torch.testing.assert_close(plain.pair[0][tasks][:, agents], permuted.pair[0])
    torch.testing.assert_close(
        (plain.task[0][tasks], plain.agent[0][agents]), (permuted.task[0], permuted.agent[0])
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_padding_in_a_batch_changes_no_score(kind):
    rng = np.random.default_rng(2)
    instances = [random_instance(rng, n, m) for n, m in ((3, 1), (9, 4), (5, 2))]
    network, window = with_biases(kind=kind), 9
    batch, values = network(features_at_start(instances, window=window))
    for row, instance in enumerate(instances):
        n, m = instance.n_tasks, instance.n_agents
        logits, value = network(features_at_start([instance]))
        pairs = batch[row, :-1].view(window, 4)
        torch.testing.assert_close(pairs[:n, :m], logits[0, :-1].view(n, m))
        torch.testing.assert_close((batch[row, -1], values[row]), (logits[0, -1], value[0]))
        assert torch.isinf(pairs[n:]).all()
        assert torch.isinf(pairs[:, m:]).all()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (40, 9), (3, 20)])
def test_it_plays_at_any_size(n, m, kind):
    simulator = TensorSimulator([random_instance(np.random.default_rng(6), n, m)], Setting())
    returns = play_greedily(with_biases(kind=kind), simulator)
    assert simulator.terminated.all()
    assert torch.isfinite(returns).all()
    assert (returns < 0).all()


def decisions_in_play(count: int = 24) -> Features:
    """Return decisions in the middle of episodes, in some of which `wait` is legal."""
    rng = np.random.default_rng(0)
    simulator = TensorSimulator(
        [complex_instance(rng) for _ in range(4)], Setting(), num_envs=count
    )
    simulator.play_random(rng, 6, restart=True)
    f = featurize(from_simulator(simulator))
    assert (f.mask[:, -1] & f.mask[:, :-1].any(dim=1)).any()
    return f


def actor_and_critic_loss(network: PairwiseNetwork, f: Features) -> torch.Tensor:
    """Return minus the log-probability of the first legal actions plus squared values."""
    logits, value = network(f)
    action = f.mask.int().argmax(dim=1, keepdim=True)
    return value.square().mean() - logits.log_softmax(dim=1).gather(1, action).mean()


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_parameter_has_a_gradient_that_is_not_zero(kind):
    network = with_biases(kind=kind)
    actor_and_critic_loss(network, decisions_in_play()).backward()
    norms = {name: weight.grad.norm().item() for name, weight in network.named_parameters()}
    assert all(1e-6 < norm < float("inf") for norm in norms.values()), norms


def test_the_gradient_equals_finite_differences():
    f = decisions_in_play()
    f = f._replace(task=f.task.double(), agent=f.agent.double(), pair=f.pair.double())
    network = with_biases().double()
    torch.set_default_dtype(torch.float64)
    try:
        actor_and_critic_loss(network, f).backward()
        generator = torch.Generator().manual_seed(1)
        for name, weight in network.named_parameters():
            direction = torch.randn(weight.shape, generator=generator)
            expected = float((weight.grad * direction).sum())
            losses = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    weight.add_(sign * 1e-6 * direction)
                    losses.append(float(actor_and_critic_loss(network, f)))
                    weight.sub_(sign * 1e-6 * direction)
            difference = (losses[0] - losses[1]) / 2e-6
            assert difference == pytest.approx(expected, rel=1e-4, abs=1e-7), name
    finally:
        torch.set_default_dtype(torch.float32)


LARGE = """
import resource, time
import numpy as np, torch
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import Simulator
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy

torch.set_num_threads(1)
rng = np.random.default_rng(0)
duration, demand = rng.integers(1, 99, (1000, 4)), rng.integers(0, 5, (1000, 4, 3))
instance = Instance(duration, demand, np.full((128, 3), 8), np.arange(128) % 4)
observation = Simulator([instance], Setting()).observation(0)
policy = NetworkPolicy(PairwiseNetwork(32, 2), 1000, torch.device("cpu"))
assert len(observation.release) == 1000
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
action = policy.act(observation, rng)
seconds = time.process_time() - start
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert observation.mask[action]
print(seconds, grown / 2**20)  # ru_maxrss is in kibibytes on Linux
"""


def test_attention_shares_what_is_received_among_those_who_are_joined():
    """Equal keys: the mean over the joined; nobody joined: nothing but the bias."""
    torch.manual_seed(0)
    attention = CrossAttention(8)
    with torch.no_grad():
        for part in (attention.key, attention.pair_score, attention.pair_value):
            part.weight.zero_()
    x, other = torch.randn(1, 2, 8), torch.randn(1, 3, 8)
    joined = torch.tensor([[[True, False, True], [False, False, False]]])
    received = attention(x, other, torch.randn(1, 2, 3, PAIR_FEATURES), joined)[0]
    mean = attention.value(other)[0, [0, 2]].mean(dim=0)
    torch.testing.assert_close(received[0], attention.out(mean))
    torch.testing.assert_close(received[1], attention.out.bias.data)


def test_the_width_of_attention_is_a_multiple_of_its_heads():
    with pytest.raises(UserError, match=r"solver\.width: value 10: must be a multiple of 4"):
        AttentionNetwork(10)


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_a_decision_among_1000_tasks_and_128_agents_needs_little_memory_and_cpu_time(request):
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        capture_output=True,
        text=True,
        check=True,
        cwd=request.config.rootpath,
    )
    seconds, gibibytes = map(float, done.stdout.split())
    assert gibibytes < 1.0
    assert seconds < 3.0


@pytest.mark.parametrize("graph_class", [PaddedGraph, CompiledGraph])
def test_the_explicit_derivatives_are_those_of_the_function(graph_class, monkeypatch):
    monkeypatch.setattr(graph, "COMPILED", graph_class is CompiledGraph)
    f = decisions_in_play().at(torch.arange(6))
    f = f._replace(task=f.task.double(), agent=f.agent.double(), pair=f.pair.double())
    network = with_biases(4, 2).double()
    weights = list(network.parameters())
    coefficient = torch.randn(int(f.mask.sum()) + len(f.shown), dtype=torch.float64)

    def total() -> torch.Tensor:
        logits, value = network(f)
        return torch.cat([logits[f.mask], value]) @ coefficient

    gradients = torch.autograd.grad(total(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        flat = weight.data.view(-1)
        for i in torch.randperm(len(flat))[:4].tolist():
            values = []
            for shift in (1e-6, -2e-6):
                flat[i] += shift
                values.append(total().item())
            flat[i] += 1e-6
            difference = (values[0] - values[1]) / 2e-6
            assert difference == pytest.approx(gradient.view(-1)[i].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_messages_give_the_outputs_and_gradients_of_plain_ones(dtype, monkeypatch):
    f = decisions_in_play()
    f = f._replace(task=f.task.to(dtype), agent=f.agent.to(dtype), pair=f.pair.to(dtype))
    assert (f.pair[..., CAN_RUN] == 0).any()
    assert not f.shown.all()
    network = with_biases().to(dtype)
    found = []
    for is_compiled in (False, True):
        monkeypatch.setattr(graph, "COMPILED", is_compiled)
        network.zero_grad()
        logits, value = network(f)
        actor_and_critic_loss(network, f).backward()
        gradients = [weight.grad.clone() for weight in network.parameters()]
        found.append([logits.detach(), value.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_tasks_that_share_a_maximum_share_its_gradient():
    f = decisions_in_play()
    values = torch.randint(-1, 2, (*f.shown.shape, 5)).double()  # few values: many ties
    agent = torch.randn(f.present.numel(), 5, dtype=torch.float64)
    gradient = torch.randn(len(values), 15, dtype=torch.float64)
    inputs = values.clone().requires_grad_()
    of_max = (torch.relu(inputs) * f.shown[..., None]).amax(dim=1) * gradient[:, 5:10]
    of_mean = (inputs * f.shown[..., None]).sum(dim=1) / f.shown.sum(dim=1, keepdim=True)
    (of_max + of_mean * gradient[:, :5]).sum().backward()
    expected = inputs.grad[f.shown]
    for padded in (True, False):
        rows = values.flatten(0, 1) if padded else values[f.shown]
        one = (PaddedGraph if padded else CompiledGraph)(f)
        of_task, of_agent = one.pool_backward(rows, one.pool(rows, agent), gradient)
        torch.testing.assert_close(of_task[f.shown.flatten()] if padded else of_task, expected)
        present = of_agent.view(*f.present.shape, 5)[f.present]
        shares = gradient[:, None, 10:] / f.present.sum(dim=1)[:, None, None]
        torch.testing.assert_close(present, shares.expand(*f.present.shape, 5)[f.present])
        assert not of_agent.view(*f.present.shape, 5)[~f.present].any()
