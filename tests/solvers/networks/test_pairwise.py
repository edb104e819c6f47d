"""The network: no index, no padding and no size matters; and the policy around it saves, loads and decides the same."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import Simulator
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.features import Features, features
from solvers.networks.pairwise import PairNetwork, _Heard
from solvers.networks.policy import NetworkPolicy, choose_device, load_policy
from solvers.rl.rollouts import play_greedily
from tests.solvers.learning import CPU, random_instance


def network(width: int = 8, rounds: int = 3) -> PairNetwork:
    """A network whose biases are not zero, so that padding could be heard."""
    torch.manual_seed(0)
    made = PairNetwork(width, rounds)
    for name, weight in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return made


def looked_at(
    instances: list[Instance], setting: Setting | None = None, window: int | None = None
) -> Features:
    return features(from_simulator(TensorSimulator(instances, setting or Setting(), window=window)))


@pytest.mark.parametrize("rounds", [1, 3])
def test_scores_follow_a_permutation_of_tasks_and_agents(rounds):
    rng = np.random.default_rng(1)
    seen = looked_at([random_instance(rng, 6, 3)])
    tasks, agents = torch.from_numpy(rng.permutation(6)), torch.from_numpy(rng.permutation(3))
    mask = seen.mask[:, :-1].view(1, 6, 3)[:, tasks][:, :, agents].flatten(1)
    shuffled = Features(
        seen.task[:, tasks], seen.agent[:, agents], seen.pair[:, tasks][:, :, agents], seen.shown[:, tasks],
        seen.present[:, agents], torch.cat([mask, seen.mask[:, -1:]], dim=1), seen.load,
    )  # fmt: skip
    one = network(8, rounds)
    (logits, value), (moved, moved_value) = one(seen), one(shuffled)
    torch.testing.assert_close(
        logits[0, :-1].view(6, 3)[tasks][:, agents], moved[0, :-1].view(6, 3)
    )
    torch.testing.assert_close((logits[0, -1], value), (moved[0, -1], moved_value))
    assert logits[0, :-1][seen.mask[0, :-1]].std() > 1e-4, "or else anything would pass"


def test_the_features_follow_a_permutation_too():
    rng = np.random.default_rng(1)
    one = random_instance(rng, 6, 3)
    tasks, agents = rng.permutation(6), rng.permutation(3)
    plain, shuffled = (
        looked_at(
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
    torch.testing.assert_close(plain.pair[0][tasks][:, agents], shuffled.pair[0])
    torch.testing.assert_close(
        (plain.task[0][tasks], plain.agent[0][agents]), (shuffled.task[0], shuffled.agent[0])
    )


def test_padding_in_a_batch_changes_nothing():
    rng = np.random.default_rng(2)
    instances = [random_instance(rng, n, m) for n, m in ((3, 1), (9, 4), (5, 2))]
    one, window = network(), 9
    together, values = one(looked_at(instances, window=window))
    for row, instance in enumerate(instances):
        n, m = instance.n_tasks, instance.n_agents
        logits, value = one(looked_at([instance]))
        pairs = together[row, :-1].view(window, 4)
        torch.testing.assert_close(pairs[:n, :m], logits[0, :-1].view(n, m))
        torch.testing.assert_close((together[row, -1], values[row]), (logits[0, -1], value[0]))
        assert torch.isinf(pairs[n:]).all()
        assert torch.isinf(pairs[:, m:]).all()


@pytest.mark.parametrize(("n", "m"), [(1, 1), (40, 9), (3, 20)])
def test_it_plays_at_any_size(n, m):
    simulator = TensorSimulator([random_instance(np.random.default_rng(6), n, m)], Setting())
    assert torch.isfinite(play_greedily(network(), simulator)).all()


def test_every_weight_learns():
    one, seen = (
        network(),
        looked_at([random_instance(np.random.default_rng(k), 6, 3) for k in range(20)]),
    )
    logits, value = one(seen)
    (logits.log_softmax(dim=1).clamp(min=-1e9).sum() + value.sum()).backward()
    for name, weight in one.named_parameters():
        if name != "wait.2.bias":  # `wait` may be illegal everywhere
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name


LARGE = """
import resource, time
import numpy as np, torch
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import Simulator
from solvers.networks.pairwise import PairNetwork, _Heard
from solvers.networks.policy import NetworkPolicy

torch.set_num_threads(1)
rng = np.random.default_rng(0)
instance = Instance(rng.integers(1, 99, (1000, 4)), rng.integers(0, 5, (1000, 4, 3)), np.full((128, 3), 8), np.arange(128) % 4)
simulator = Simulator([instance], Setting())
policy, seen = NetworkPolicy(PairNetwork(32, 2), 1000, torch.device("cpu")), simulator.observation(0)
assert len(seen.release) == 1000
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
action = policy.act(seen, rng)
seconds, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert seen.mask[action]
print(seconds, grown / 2**20)  # kibibytes on Linux
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_a_decision_among_1000_tasks_and_128_agents_is_within_bounds(request):
    done = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, cwd=request.config.rootpath
    )  # fmt: skip
    seconds, gibibytes = map(float, done.stdout.split())
    assert gibibytes < 1.0
    assert seconds < 3.0


def test_a_saved_policy_decides_the_same(tmp_path):
    instance = random_instance(np.random.default_rng(5))
    policy = NetworkPolicy(network(), 4, CPU)
    policy.save(tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt", CPU)
    assert again.window == 4
    simulator = Simulator([instance], Setting(), window=4)
    while not simulator.terminated[0]:
        seen = simulator.observation(0)
        action = policy.act(seen, np.random.default_rng(0))
        assert action == again.act(seen, np.random.default_rng(0))
        simulator.step(np.array([simulator.flat(action, seen)]))


def test_bad_checkpoints_and_devices_are_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist"):
        load_policy(tmp_path / "missing.pt", CPU)
    (tmp_path / "short.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"short\.pt is no policy"):
        load_policy(tmp_path / "short.pt", CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device: cuda.*solver\.device=cpu"):
        choose_device("cuda")
    with pytest.raises(UserError, match="must be auto, cpu or cuda"):
        choose_device("tpu")


def test_messages_and_their_gradients_are_those_of_the_plain_operations():
    torch.manual_seed(0)
    shapes = (5, 6, 3, 4), (5, 6, 4), (5, 3, 4)
    pair, task, agent = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    can = (torch.rand(5, 6, 3, 1) > 0.3).double()
    said = torch.relu(pair + task[:, :, None] + agent[:, None]) * can
    plain = said.sum(dim=1), said.amax(dim=1), said.sum(dim=2), said.amax(dim=2)
    heard = _Heard.apply(pair, task, agent, can)
    weights = [torch.randn_like(part) for part in plain]
    gradients = []
    for parts in (plain, heard):
        total = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
        gradients.append(torch.autograd.grad(total, (pair, task, agent)))
    for one, other in zip((*plain, *gradients[0]), (*heard, *gradients[1]), strict=True):
        assert torch.allclose(one, other, rtol=1e-12)
