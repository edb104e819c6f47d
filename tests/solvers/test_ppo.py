"""PPO and what learners share: advantages, features, the network, saving, resuming, and that it learns at all."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bench.contracts import Budget, UserError
from bench.instance import Instance
from bench.metrics import objective
from bench.rollout import PolicySolver
from bench.setting import Setting
from bench.simulator import Simulator
from bench.verify import verify
from solvers.advantages import gae
from solvers.features import features, from_observation, from_simulator
from solvers.network import PairNetwork
from solvers.policy import BestOf, NetworkPolicy, load_policy, play
from solvers.ppo import PPO

CPU = torch.device("cpu")


def random_instance(rng: np.random.Generator, n: int = 6, m: int = 3) -> Instance:
    duration = rng.integers(1, 10, (n, 2))
    return Instance(
        duration, rng.integers(0, 3, (n, 2, 2)), np.full((m, 2), 4), rng.integers(0, 2, m),
        release=rng.integers(0, 8, n), weight=rng.integers(1, 4, n), due=rng.integers(5, 30, n), kind=rng.integers(0, 4, n),
    )  # fmt: skip


class Fixed:
    """A dataset of given instances."""

    name = "fixed"

    def __init__(self, make, n: int) -> None:
        self.splits = {
            split: [make(np.random.default_rng([k, i])) for i in range(n)]
            for k, split in enumerate(("train", "validation", "test"))
        }

    def instances(self, split: str) -> Iterator[Instance]:
        return iter(self.splits[split])


class Silent:
    """A log that keeps what it hears; `stop_after` raises in the middle of training, as a kill would."""

    def __init__(self, folder, stop_after: int | None = None) -> None:
        self.folder, self.heard, self.stop_after = folder, [], stop_after

    def metrics(self, step, values) -> None:
        self.heard.append((step, dict(values)))

    def progress(self, done, total, note="") -> None:
        if self.stop_after is not None and len(self.heard) == self.stop_after:
            raise KeyboardInterrupt


def small_ppo(**changes) -> PPO:
    return PPO(
        **{"device": "cpu", "envs": 16, "steps": 8, "minibatch": 64, "validate_every": 2, "save_seconds": 0.0, **changes}
    )


def test_gae_equals_a_hand_calculation():
    # three steps, the second terminates: A2 = 3 + .5 * 40 - 30; A1 = 2 - 20; A0 = 1 + .5 * 20 - 10 + .5 * .8 * A1
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    following = torch.tensor([[20.0], [99.0], [40.0]])
    no, second = torch.zeros(3, 1, dtype=torch.bool), torch.tensor([[False], [True], [False]])
    terminated = gae(reward, value, following, second, no, 0.5, 0.8)
    assert terminated.flatten().tolist() == pytest.approx([1 + 10 - 10 + 0.4 * -18, -18.0, -7.0])


def test_truncation_bootstraps_and_termination_does_not():
    reward, value, following = torch.zeros(2, 1), torch.zeros(2, 1), torch.full((2, 1), 7.0)
    no, first = torch.zeros(2, 1, dtype=torch.bool), torch.tensor([[True], [False]])
    assert gae(reward, value, following, first, no, 1.0, 1.0)[0].item() == 0.0
    assert gae(reward, value, following, no, first, 1.0, 1.0)[0].item() == 7.0


@pytest.mark.parametrize("observe", ["all", "arrived"])
def test_one_observation_and_the_batch_give_the_same_features(observe):
    rng = np.random.default_rng(0)
    simulator = Simulator([random_instance(rng, 5, 2), random_instance(rng, 7, 3)], Setting(observe=observe))
    network = PairNetwork(8)
    while not simulator.terminated.any():
        batch = features(from_simulator(simulator, CPU))
        logits = network(batch)[0]
        actions = []
        for b in range(2):
            seen = simulator.observation(b)
            one = features(from_observation(seen, CPU))
            n = one.task.shape[1]
            torch.testing.assert_close(one.task[0], batch.task[b, :n])
            alone = network(one)[0]
            legal = torch.isfinite(alone[0])
            places = [simulator.flat(k, seen) for k in range(len(seen.mask))]
            torch.testing.assert_close(alone[0][legal], logits[b, places][legal], rtol=1e-4, atol=1e-5)
            actions.append(simulator.flat(int(alone.argmax()), seen))
        simulator.step(np.array(actions))


def test_scores_follow_a_permutation_of_tasks_and_agents():
    rng = np.random.default_rng(1)
    instance = random_instance(rng, 6, 3)
    tasks, agents = rng.permutation(6), rng.permutation(3)
    shuffled = Instance(
        instance.duration[tasks], instance.demand[tasks], instance.capacity[agents], instance.agent_type[agents],
        release=np.zeros(6), weight=instance.weight[tasks], kind=instance.kind[tasks],
    )  # fmt: skip
    plain = Instance(
        instance.duration, instance.demand, instance.capacity, instance.agent_type,
        release=np.zeros(6), weight=instance.weight, kind=instance.kind,
    )  # fmt: skip
    network = PairNetwork(8)
    scores = [
        network(features(from_simulator(Simulator([i], Setting()), CPU)))[0][0, :-1].view(6, 3) for i in (plain, shuffled)
    ]
    torch.testing.assert_close(scores[0][tasks][:, agents], scores[1])


def identity_instance(rng: np.random.Generator) -> Instance:
    """One task at a time per agent; each task is ten times faster on one agent, and which one is drawn."""
    fast = rng.integers(0, 3, 3)
    duration = np.where(np.arange(3) == fast[:, None], 1, 10)
    return Instance(duration, np.ones((3, 3, 1)), np.full((3, 1), 3), np.arange(3))


def test_it_learns_to_send_each_task_to_its_fast_agent(tmp_path):
    data = Fixed(identity_instance, 32)
    policy = small_ppo(envs=32, minibatch=128).fit(
        data, Setting(), Budget(decisions=8000, threads=1), np.random.default_rng(0), Silent(tmp_path)
    )
    trials = Simulator(list(data.instances("test")), Setting())
    assert play(policy.network, trials, CPU).mean() == pytest.approx(-1.0)  # the optimum: everything at its shortest


def test_a_killed_training_ends_with_the_same_network(tmp_path):
    data, budget = Fixed(random_instance, 8), Budget(decisions=16 * 8 * 6, threads=1)
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    whole = small_ppo().fit(data, Setting(), budget, np.random.default_rng(3), Silent(folders[0]))
    with pytest.raises(KeyboardInterrupt):
        small_ppo().fit(data, Setting(), budget, np.random.default_rng(3), Silent(folders[1], stop_after=3))
    log = Silent(folders[1])
    resumed = small_ppo().fit(data, Setting(), budget, np.random.default_rng(3), log)
    assert 0 < len(log.heard) < 6, "it should have gone on where it stopped, not started again"
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_best_of_many_episodes_is_never_worse_than_greedy():
    policy = NetworkPolicy(PairNetwork(8), 16, CPU)
    for seed in range(10):
        instance = random_instance(np.random.default_rng(seed))
        one, many = (
            solver.solve(instance, Setting(), Budget(), np.random.default_rng(0))
            for solver in (PolicySolver(policy), BestOf(policy, 8))
        )
        assert not verify(instance, many.schedule)
        values = [objective(instance, result.schedule, "total_time") for result in (one, many)]
        assert values[1] <= values[0]
        if many.info["best"] == 0:
            assert values[1] == values[0]


def test_a_saved_policy_decides_the_same(tmp_path):
    instance = random_instance(np.random.default_rng(5))
    policy = NetworkPolicy(PairNetwork(8), 16, CPU)
    policy.save(tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt", CPU)
    simulator = Simulator([instance], Setting())
    while not simulator.terminated[0]:
        seen = simulator.observation(0)
        action = policy.act(seen, np.random.default_rng(0))
        assert action == again.act(seen, np.random.default_rng(0))
        simulator.step(np.array([simulator.flat(action, seen)]))


def test_a_network_trained_at_one_size_runs_at_another():
    rng = np.random.default_rng(6)
    for n, m in ((1, 1), (40, 9)):
        simulator = Simulator([random_instance(rng, n, m)], Setting())
        assert np.isfinite(play(PairNetwork(8), simulator, CPU)).all()


def test_a_batch_may_hold_tenants_with_and_without_quotas():
    rng = np.random.default_rng(7)
    plain, limited = random_instance(rng), random_instance(rng)
    tenants = Instance(**{**vars(plain), "tenant": rng.integers(0, 5, 6)})
    quotas = Instance(**{**vars(limited), "tenant": rng.integers(0, 2, 6), "quota": np.full((2, 2), 4)})
    both = Simulator([tenants, quotas], Setting())
    torch.manual_seed(0)
    network = PairNetwork(8)
    alone = [play(network, Simulator([i], Setting()), CPU)[0] for i in (tenants, quotas)]
    assert play(network, both, CPU) == pytest.approx(alone)


def test_bad_checkpoints_and_devices_are_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist"):
        load_policy(tmp_path / "missing.pt", CPU)
    (tmp_path / "short.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"short\.pt is no policy"):
        load_policy(tmp_path / "short.pt", CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device: cuda.*solver\.device=cpu"):
        PPO(device="cuda")


def test_a_loss_that_is_not_finite_stops_with_the_last_state_on_disk(tmp_path):
    ppo = small_ppo(lr=1e30, max_grad_norm=1e30)
    with pytest.raises(UserError, match=r"loss became .*lower solver\.lr"):
        ppo.fit(
            Fixed(random_instance, 4), Setting(), Budget(decisions=5000, threads=1), np.random.default_rng(0), Silent(tmp_path)
        )
