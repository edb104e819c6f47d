"""What a network sees has no unit, hides the future, and is the same from one observation and from a batch."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from bench.instance import Instance, Outage
from bench.setting import Setting
from bench.simulator.tables import TIME
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_observation, from_simulator
from solvers.networks.features import AGENT, PAIR, TASK, Features, features
from solvers.networks.pairwise import PairNetwork
from tests.solvers.learning import CPU, random_instance, rough, rough_fields, rough_instance

ONLINE = partial(Setting, track="online", observe="arrived")
SETTINGS = {
    "all": Setting(),
    "arrived": ONLINE(),
    "commit": ONLINE(mode="commit"),
    "tardiness": Setting(objective="tardiness"),
}


def seen_by(simulator: TensorSimulator) -> Features:
    return features(from_simulator(simulator))


def random_actions(simulator: TensorSimulator, generator: torch.Generator) -> torch.Tensor:
    """A legal action for each environment, -1 where its episode is over."""
    chance = torch.rand(simulator.state.mask.shape, generator=generator) * simulator.state.mask
    return torch.where(simulator.playing, chance.argmax(dim=1), -1)


@pytest.mark.parametrize("make", [random_instance, rough])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_one_observation_and_the_batch_give_the_same(setting, make):
    instances = [make(np.random.default_rng(k), n) for k, n in enumerate((5, 7, 8))]
    simulator, generator, network = (
        TensorSimulator(instances, setting),
        torch.Generator().manual_seed(0),
        PairNetwork(8),
    )
    while simulator.playing.all():
        batch = seen_by(simulator)
        logits, _ = network(batch)
        for b, instance in enumerate(instances):
            seen = simulator.host().observation(b)
            one, m = features(from_observation(seen, CPU)), instance.n_agents
            n = one.task.shape[1]
            torch.testing.assert_close(one.task[0], batch.task[b, :n])
            torch.testing.assert_close(one.agent[0], batch.agent[b, :m])
            torch.testing.assert_close(one.pair[0], batch.pair[b, :n, :m])
            torch.testing.assert_close(one.load[0], batch.load[b])
            places = [simulator.host().flat(k, seen) for k in range(len(seen.mask))]
            torch.testing.assert_close(network(one)[0][0], logits[b, places], rtol=1e-4, atol=1e-5)
        simulator.step(random_actions(simulator, generator))


def test_they_are_as_many_as_declared_and_zero_at_padding():
    seen = seen_by(
        TensorSimulator([rough(np.random.default_rng(k), 4 + k) for k in range(3)], ONLINE())
    )
    assert (seen.task.shape[-1], seen.agent.shape[-1], seen.pair.shape[-1]) == (TASK, AGENT, PAIR)
    assert all(column.dtype == torch.float32 for column in (seen.task, seen.agent, seen.pair))
    assert (seen.task[~seen.shown] == 0).all()
    assert (seen.pair[~seen.shown] == 0).all()
    assert seen.task.abs().max() < 25


def slower(one: Instance, k: int) -> Instance:
    """Every time is k ticks for one."""
    outages = tuple(Outage(o.agent, o.start * k, o.end * k, o.announced) for o in one.outages)
    duration, estimate = (np.where(x == -1, -1, x * k) for x in (one.duration, one.estimate))
    return replace(
        one, duration=duration, estimate=estimate, release=one.release * k, due=one.due * k, outages=outages
    )  # fmt: skip


def larger(one: Instance, k: int) -> Instance:
    """Every demand, capacity and quota is k units for one."""
    return replace(one, demand=one.demand * k, capacity=one.capacity * k, quota=one.quota * k)


def dearer(one: Instance, k: int) -> Instance:
    """Every weight is k for one."""
    return replace(one, weight=one.weight * k)


def lopsided(rng: np.random.Generator, n: int) -> Instance:
    """An agent lacks one of the resources, a tenant has no quota of it."""
    fields = rough_fields(rng, n, np.sort(rng.integers(0, 20, n)))
    fields["demand"][fields["tenant"] == 0, :, 1] = 0
    return Instance(
        **fields, capacity=[[4, 6], [3, 0], [5, 4]], agent_type=[0, 1, 0], quota=[[6, 0], [7, 6]]
    )


@pytest.mark.parametrize("make", [rough, lopsided])
@pytest.mark.parametrize("change", [slower, larger, dearer])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_they_have_no_unit(setting, change, make):
    instances = [make(np.random.default_rng(k), 9) for k in range(6)]
    plain = TensorSimulator(instances, setting)
    scaled = TensorSimulator([change(instance, 7) for instance in instances], setting)
    generator = torch.Generator().manual_seed(0)
    while plain.playing.any():
        before, after = seen_by(plain), seen_by(scaled)
        for name in ("task", "agent", "pair", "mask"):
            torch.testing.assert_close(
                getattr(before, name), getattr(after, name), rtol=1e-4, atol=1e-4
            )
        actions = random_actions(plain, generator)
        torch.testing.assert_close(plain.step(actions), scaled.step(actions))


@pytest.mark.parametrize(
    "setting",
    [ONLINE(), ONLINE(mode="commit"), ONLINE(events="singly")],
    ids=["fit", "commit", "singly"],
)
def test_no_task_of_the_future_can_be_seen(setting):
    compared = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        fields, after = (
            rough_fields(rng, 16, np.sort(rng.integers(0, 40, 16))),
            int(rng.integers(5, 35)),
        )
        past, n = fields["release"] <= after, int(rng.integers(0, 15))
        future = rough_fields(rng, n, np.sort(after + rng.integers(1, 40, n)))
        other = {
            name: np.concatenate([value[past], future[name]]) for name, value in fields.items()
        }
        worlds = [TensorSimulator([rough_instance(x)], setting, window=12) for x in (fields, other)]
        generator = torch.Generator().manual_seed(seed)
        while int(worlds[0].state.env[0, TIME]) <= after and worlds[0].playing.all():
            for one, two in zip(seen_by(worlds[0]), seen_by(worlds[1]), strict=True):
                assert torch.equal(one, two)
            action = random_actions(worlds[0], generator)
            for world in worlds:
                world.step(action)
            compared += 1
    assert compared > 50
