"""The speed benchmark of PPO: its rows, and peers that play legally and learn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.plugins import load
from bench.setting import Setting
from bench.speed import ppo
from bench.speed._ppo_peers import (
    Agent,
    BatchedEnvs,
    CleanRLPPO,
    GymnasiumEnvs,
    MaskablePPO,
)
from bench.speed._roofline import Work

CPU = torch.device("cpu")
COLUMNS = [
    "network",
    "engine",
    "phase",
    "epochs",
    "setting",
    "per_cpu_second",
    "per_second",
    "ratio",
    "kflop",
    "kbyte",
    "of_peak_flops",
    "of_peak_bytes",
    "limit",
    "note",
]


def call_once(measured, rounds, device):
    """Call every phase once; return rates (100, 50), (200, 100), (300, 150), ..."""
    for phase in measured.values():
        phase.call()
    return {name: (100.0 * k, 50.0 * k) for k, name in enumerate(measured, start=1)}


@pytest.fixture
def tiny(monkeypatch):
    """Use few environments and steps, have no GPU, and measure nothing for long."""
    least = {"num_envs": 4, "steps": 4, "minibatch": 8}
    monkeypatch.setattr(ppo, "measure_peaks", lambda device: Work(1e11, 1e10))
    monkeypatch.setattr(ppo, "measure", call_once)
    monkeypatch.setattr(ppo, "SEARCH", {"batched": ((4, 4, 8),), "gymnasium": ((2, 4, 8),)})
    monkeypatch.setattr(ppo, "GPU", least)
    monkeypatch.setattr(
        ppo,
        "create_learner",
        lambda **changes: load("solver", "ppo", **({"max_kl": 1e9} | changes | least)),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def create_trainer(num_envs: int = 256, instances: int = 2):
    learner = load("solver", "ppo", **ppo.MLP, device="cpu", num_envs=num_envs)
    return learner.trainer(ppo.draw_instances(instances, [10, 10]), Setting())


def batched_envs(num_envs: int) -> BatchedEnvs:
    return BatchedEnvs(create_trainer(num_envs, instances=4).collector)


def gymnasium_envs(num_envs: int) -> GymnasiumEnvs:
    return GymnasiumEnvs(ppo.draw_instances(3, [10, 10]), num_envs)


@pytest.mark.slow
def test_a_tiny_run_has_every_row(tiny, monkeypatch):
    monkeypatch.setattr(
        ppo,
        "reason_missing",
        lambda name: "not installed" if name.startswith("MaskablePPO") else "",
    )
    rows = list(ppo.rows(1, rounds=1, instances=4))
    assert all(list(row) == COLUMNS for row in rows)
    ours = [
        (row["network"], row["epochs"], row["phase"]) for row in rows if row["engine"] == "ours"
    ]
    expected = []
    for network, epochs in (("mlp 64", 10), ("mlp 64", 4), ("pairs 32", 3)):
        expected += [(network, None, "simulator"), (network, None, "rollout")]
        expected += [(network, epochs, "update"), (network, epochs, "end to end")]
    assert ours == expected
    end_to_end = {
        (row["engine"], row["epochs"]): row
        for row in rows
        if row["phase"] == "end to end" and row["network"] == "mlp 64"
    }
    for epochs in (10, 4):
        own = end_to_end["ours", epochs]
        assert (own["per_second"], own["per_cpu_second"], own["ratio"]) == (400, 200, 1.0)
        assert own["kflop"] > 0
        assert own["setting"] == "4 x 4, 8"
        peer = end_to_end["CleanRL-style loop, batched simulator", epochs]
        assert (peer["per_second"], peer["per_cpu_second"], peer["ratio"]) == (500, 250, 0.8)
        peer = end_to_end["CleanRL-style loop, Gymnasium", epochs]
        assert (peer["setting"], peer["ratio"]) == ("2 x 4, 8", round(200 / 300, 2))
        assert end_to_end["MaskablePPO, Gymnasium", epochs]["note"] == "not installed"
        gpu = end_to_end["ours on a GPU", epochs]
        assert gpu["note"] == "not measured: no CUDA device"
        assert gpu["per_second"] is None


def test_more_epochs_need_more_work_per_decision(tiny):
    instances = ppo.draw_instances(4, [10, 10])
    update = {
        epochs: ppo.phases(ppo.create_learner(**ppo.MLP, epochs=epochs, device="cpu"), instances)[
            "update"
        ]
        for epochs in (1, 3)
    }
    assert update[3].decisions == update[1].decisions == 16
    assert update[3].work.flops == pytest.approx(3 * update[1].work.flops)


def test_rates_are_the_best_of_the_rounds_after_the_first(monkeypatch):
    # Two phases in turn, three rounds; the calls of the first round are the fastest.
    wall_seconds = [1, 1, 4, 10, 2, 20]
    processor_seconds = [1, 1, 2, 30, 8, 20]
    wall, processor = (
        iter(np.stack([np.zeros(6), seconds], axis=1).ravel())
        for seconds in (wall_seconds, processor_seconds)
    )
    clock = SimpleNamespace(perf_counter=lambda: next(wall), process_time=lambda: next(processor))
    monkeypatch.setattr(ppo, "time", clock)
    calls = []
    phases = {name: ppo.Phase(lambda name=name: calls.append(name), 40) for name in "ab"}
    rates = ppo.measure(phases, 2, CPU)
    assert rates == {"a": (40 / 2, 40 / 2), "b": (40 / 10, 40 / 20)}
    assert calls == list("ababab")


@pytest.mark.parametrize("make_envs", [batched_envs, gymnasium_envs])
def test_environments_of_peers_restart_automatically(make_envs):
    envs, rng, ended = make_envs(3), np.random.default_rng(0), 0
    shape = envs.observe()[0].shape
    for _ in range(60):
        observations, mask = envs.observe()
        assert observations.shape == shape
        assert observations.dtype == np.float32
        reward, over = envs.step(np.array([rng.choice(np.flatnonzero(row)) for row in mask]))
        assert (reward <= 0).all()
        ended += over.sum()
    assert ended >= 3


def test_the_fastest_setting_is_chosen(tiny, monkeypatch):
    settings = ((4, 4, 8), (2, 4, 8), (4, 2, 8))
    monkeypatch.setattr(ppo, "SEARCH", {"batched": settings})
    cpu_rates = (3.0, 5.0, 4.0)  # by processor time; by the wall clock the last one is fastest

    def measure(measured, rounds, device):
        return {i: (float(i), cpu_rates[i]) for i in measured}

    monkeypatch.setattr(ppo, "measure", measure)
    best = ppo.find_best_setting("ours", ppo.draw_instances(2, [10, 10]))
    assert best == {"num_envs": 2, "steps": 4, "minibatch": 8}


def test_the_cleanrl_loop_has_our_network_and_trains_it():
    peer = CleanRLPPO(batched_envs(4), 8, 16, 2)
    shapes = [
        sorted(tuple(weight.shape) for weight in network.parameters())
        for network in (peer.agent, create_trainer().network)
    ]
    assert shapes[0] == shapes[1]
    before = peer.agent.actor[0].weight.clone()
    peer.train_iteration()
    assert not torch.equal(before, peer.agent.actor[0].weight)


def test_advantages_of_the_cleanrl_loop_equal_hand_calculation():
    class TwoSteps:
        """One environment without observations; its first episode ends after the first step."""

        num_envs = 1

        def __init__(self):
            self.results = iter([(-1.0, True), (-2.0, False)])

        def observe(self):
            return np.zeros((1, 1), dtype=np.float32), np.ones((1, 2), dtype=np.bool_)

        def step(self, actions):
            reward, over = next(self.results)
            return np.array([reward], dtype=np.float32), np.array([over])

    peer = CleanRLPPO(TwoSteps(), 2, 2, 1)
    with torch.no_grad():
        value = peer.agent(peer.obs, peer.mask)[3].item()
    advantages, returns = peer.collect()
    # Nothing follows the first step; the second is followed by a state of the same value.
    expected = torch.tensor([[-1.0 - value], [-2.0 + value - value]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected + value)


def test_the_agent_of_the_cleanrl_loop_masks_actions():
    mask = torch.tensor([[True, False, True]])
    _, logp, entropy, _ = Agent(2, 3, 4)(torch.ones(1, 2), mask, torch.tensor([0]))
    assert 0.4 < logp.exp().item() < 0.6
    assert entropy.item() == pytest.approx(np.log(2), abs=0.01)


@pytest.mark.peers
def test_maskable_ppo_trains_in_our_environments():
    pytest.importorskip("sb3_contrib")
    peer = MaskablePPO(batched_envs(4), 8, 16, 2)
    before = next(peer.model.policy.parameters()).clone()
    peer.train_iteration()
    peer.train_iteration()
    assert peer.model.num_timesteps == 64
    assert not torch.equal(before, next(peer.model.policy.parameters()))


def test_a_wrong_part_raises_an_error():
    with pytest.raises(UserError, match=r"--only: 'mpl' must be one of mlp, pairs, cuda"):
        list(ppo.rows(1, only="mpl"))
