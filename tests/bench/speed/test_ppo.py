"""The speed program of PPO: a tiny run has every row, peers play legally and learn, and work is counted as by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import UserError
from bench.setting import Setting
from bench.speed import ppo
from bench.speed._ppo_peers import Agent, Batched, Gymnasium, Loop, Maskable
from bench.speed._roofline import COPIED, Work, count, shares
from bench.speed.exact import build, read

CPU = torch.device("cpu")
COLUMNS = {"network", "engine", "phase", "epochs", "setting", "per_cpu_second", "per_second", "ratio", "kflop", "kbyte",
           "of_peak_flops", "of_peak_bytes", "limit", "note"}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """Few environments and steps, no peers, nothing measured for long."""
    least = {"envs": 4, "steps": 4, "minibatch": 8}
    monkeypatch.setattr(ppo, "peaks", lambda device: Work(1e11, 1e10))
    monkeypatch.setattr(ppo, "SEARCH", {"batched": ((4, 4, 8),), "gymnasium": ((2, 4, 8),)})
    monkeypatch.setattr(ppo, "GPU", least)
    monkeypatch.setattr(
        ppo, "configured", lambda **at: build(read("solver", "ppo") | {"max_kl": 1e9} | at | least)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def batched(envs: int) -> Batched:
    learner = build(read("solver", "ppo") | ppo.MLP | {"device": "cpu", "envs": envs})
    return Batched(learner.descent(ppo.drawn(4, [10, 10]), Setting()).player)


def test_a_tiny_run_has_every_row(tiny, monkeypatch):
    monkeypatch.setattr(
        ppo, "absent", lambda name: "not installed" if name.startswith("MaskablePPO") else ""
    )
    found = list(ppo.rows(1, rounds=1, instances=4))
    assert all(set(row) == COLUMNS for row in found)
    ours = [
        (row["network"], row["epochs"], row["phase"]) for row in found if row["engine"] == "ours"
    ]
    phases = ("simulator", "rollout", "update", "end to end")
    of_mlp = [
        ("mlp 64", epochs if k > 1 else None, phase)
        for epochs in (10, 4)
        for k, phase in enumerate(phases)
    ]
    assert ours == of_mlp + [
        ("pairs 32", 3 if k > 1 else None, phase) for k, phase in enumerate(phases)
    ]
    by = {
        (row["engine"], row["epochs"]): row
        for row in found
        if row["phase"] == "end to end" and row["network"] == "mlp 64"
    }
    for epochs in (10, 4):
        mine, loop = by["ours", epochs], by["CleanRL-style loop, batched simulator", epochs]
        assert loop["ratio"] == pytest.approx(
            mine["per_cpu_second"] / loop["per_cpu_second"], abs=0.01
        )
        assert mine["kflop"] > 0
        assert by["MaskablePPO, Gymnasium", epochs]["note"] == "not installed"
        assert by["ours on a GPU", epochs]["note"] == "not measured: no CUDA device"
        assert by["ours on a GPU", epochs]["per_second"] is None


def test_flops_and_bytes_by_hand():
    layer, x = nn.Linear(3, 5), torch.ones(2, 3)
    with torch.no_grad():
        work = count(lambda: layer(x), 2)
    assert work == Work(
        2 * 2 * 3 * 5 / 2, 4 * (5 + 2 * 3 + 3 * 5 + 2 * 5) / 2
    )  # bias, input, weight, output
    assert count(lambda: x.T, 1) == Work(0, 0)


def test_the_limit_is_the_larger_share_if_it_is_large():
    peak = Work(1000.0, 100.0)
    assert shares(Work(8.0, 0.1), 100.0, peak)["limit"] == "arithmetic"
    assert shares(Work(1.0, 0.9), 100.0, peak)["limit"] == "memory"
    row = shares(Work(2.0, 0.3), 100.0, peak)
    assert (row["of_peak_flops"], row["of_peak_bytes"], row["limit"]) == (
        0.2,
        0.3,
        "neither: many small operations",
    )
    assert COPIED % 4 == 0


@pytest.mark.parametrize(
    "make", [batched, lambda n: Gymnasium(ppo.drawn(3, [10, 10]), n)], ids=["batched", "gymnasium"]
)
def test_environments_of_peers_start_again(make):
    environments, rng, ended = make(3), np.random.default_rng(0), 0
    shape = environments.observe()[0].shape
    for _ in range(60):
        seen, mask = environments.observe()
        assert seen.shape == shape
        assert seen.dtype == np.float32
        reward, over = environments.step(
            np.array([rng.choice(np.flatnonzero(row)) for row in mask])
        )
        assert (reward <= 0).all()
        ended += over.sum()
    assert ended >= 3


def test_the_loop_has_the_network_of_ours_and_changes_it():
    loop = Loop(batched(4), 8, 16, 2)
    ours = (
        build(read("solver", "ppo") | ppo.MLP | {"device": "cpu"})
        .descent(ppo.drawn(2, [10, 10]), Setting())
        .network
    )
    shapes = [
        sorted(tuple(weight.shape) for weight in network.parameters())
        for network in (loop.agent, ours)
    ]
    assert shapes[0] == shapes[1]
    before = loop.agent.actor[0].weight.clone()
    loop.turn()
    assert not torch.equal(before, loop.agent.actor[0].weight)


def test_the_loops_agent_masks():
    mask = torch.tensor([[True, False, True]])
    _, logp, entropy, _ = Agent(2, 3, 4)(torch.ones(1, 2), mask, torch.tensor([0]))
    assert 0.4 < logp.exp().item() < 0.6
    assert entropy.item() == pytest.approx(np.log(2), abs=0.01)


@pytest.mark.peers
def test_maskable_ppo_plays_our_environments():
    pytest.importorskip("sb3_contrib")
    peer = Maskable(batched(4), 8, 16, 2)
    before = next(peer.model.policy.parameters()).clone()
    peer.turn()
    peer.turn()
    assert peer.model.num_timesteps == 64
    assert not torch.equal(before, next(peer.model.policy.parameters()))


def test_a_wrong_option_is_one_clear_error():
    with pytest.raises(UserError, match=r"--only: 'mpl' must be one of mlp, pairs, cuda"):
        list(ppo.rows(1, only="mpl"))
