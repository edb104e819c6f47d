"""The features have no unit, hide the future, and are equal from one observation and a batch."""

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
from solvers.networks.features import (
    AGENT_FEATURES,
    PAIR_FEATURES,
    TASK_FEATURES,
    Features,
    featurize,
)
from solvers.networks.pairwise import PairwiseNetwork
from tests.solvers.learning import (
    CPU,
    complex_fields,
    complex_instance,
    random_instance,
    with_outages,
)

ONLINE = partial(Setting, track="online", observe="arrived")
SETTINGS = {
    "all": Setting(),
    "arrived": ONLINE(),
    "commit": ONLINE(mode="commit"),
    "tardiness": Setting(objective="tardiness"),
}


def features_of(simulator: TensorSimulator) -> Features:
    return featurize(from_simulator(simulator))


def random_actions(simulator: TensorSimulator, generator: torch.Generator) -> torch.Tensor:
    """Return a legal action for each environment, -1 where its episode is over."""
    chance = torch.rand(simulator.state.mask.shape, generator=generator) * simulator.state.mask
    return torch.where(simulator.playing, chance.argmax(dim=1), -1)


@pytest.mark.parametrize("make", [random_instance, complex_instance])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_one_observation_and_a_batch_have_equal_features_and_logits(setting, make):
    instances = [make(np.random.default_rng(k), n) for k, n in enumerate((5, 7, 8))]
    simulator = TensorSimulator(instances, setting)
    generator = torch.Generator().manual_seed(0)
    network = PairwiseNetwork(8)
    while simulator.playing.all():
        batch = features_of(simulator)
        logits, _ = network(batch)
        for b, instance in enumerate(instances):
            observation = simulator.host().observation(b)
            one = featurize(from_observation(observation, CPU))
            n, m = one.task.shape[1], instance.n_agents
            torch.testing.assert_close(one.task[0], batch.task[b, :n])
            torch.testing.assert_close(one.agent[0], batch.agent[b, :m])
            torch.testing.assert_close(one.pair[0], batch.pair[b, :n, :m])
            torch.testing.assert_close(one.load[0], batch.load[b])
            actions = range(len(observation.mask))
            indices = [simulator.host().flat(k, observation) for k in actions]
            torch.testing.assert_close(network(one)[0][0], logits[b, indices], rtol=1e-4, atol=1e-5)
        simulator.step(random_actions(simulator, generator))


def test_features_have_the_declared_shapes_and_are_zero_at_padding():
    instances = [complex_instance(np.random.default_rng(k), 4 + k) for k in range(3)]
    f = features_of(TensorSimulator(instances, ONLINE()))
    sizes = (f.task.shape[-1], f.agent.shape[-1], f.pair.shape[-1])
    assert sizes == (TASK_FEATURES, AGENT_FEATURES, PAIR_FEATURES)
    assert all(column.dtype == torch.float32 for column in (f.task, f.agent, f.pair))
    assert 0 < (~f.shown).sum() < f.shown.numel()
    assert (f.task[~f.shown] == 0).all()
    assert (f.pair[~f.shown] == 0).all()
    assert f.task.abs().max() < 25


def longer(one: Instance, k: int) -> Instance:
    """Return the instance with every time multiplied by k."""
    outages = tuple(Outage(o.agent, o.start * k, o.end * k, o.announced) for o in one.outages)
    duration, estimate = (np.where(x == -1, -1, x * k) for x in (one.duration, one.estimate))
    return replace(
        one,
        duration=duration,
        estimate=estimate,
        release=one.release * k,
        due=one.due * k,
        outages=outages,
    )


def larger(one: Instance, k: int) -> Instance:
    """Return the instance with every demand, capacity and quota multiplied by k."""
    return replace(one, demand=one.demand * k, capacity=one.capacity * k, quota=one.quota * k)


def heavier(one: Instance, k: int) -> Instance:
    """Return the instance with every weight multiplied by k."""
    return replace(one, weight=one.weight * k)


def lopsided(rng: np.random.Generator, n: int) -> Instance:
    """Return an instance with an agent without one of the resources and a tenant without quota."""
    fields = complex_fields(rng, n, np.sort(rng.integers(0, 20, n)))
    fields["demand"][fields["tenant"] == 0, :, 1] = 0
    return Instance(
        **fields, capacity=[[4, 6], [3, 0], [5, 4]], agent_type=[0, 1, 0], quota=[[6, 0], [7, 6]]
    )


@pytest.mark.parametrize("make", [complex_instance, lopsided])
@pytest.mark.parametrize("change", [longer, larger, heavier])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_features_have_no_unit(setting, change, make):
    instances = [make(np.random.default_rng(k), 9) for k in range(6)]
    plain = TensorSimulator(instances, setting)
    scaled = TensorSimulator([change(instance, 7) for instance in instances], setting)
    generator = torch.Generator().manual_seed(0)
    while plain.playing.any():
        before, after = features_of(plain), features_of(scaled)
        for name in ("task", "agent", "pair", "mask"):
            torch.testing.assert_close(
                getattr(before, name), getattr(after, name), rtol=1e-4, atol=1e-4
            )
        actions = random_actions(plain, generator)
        torch.testing.assert_close(plain.step(actions), scaled.step(actions))


@pytest.mark.parametrize(
    "setting",
    [ONLINE(), ONLINE(mode="commit"), ONLINE(event_order="sequential")],
    ids=["fit", "commit", "sequential"],
)
def test_features_do_not_depend_on_tasks_of_the_future(setting):
    compared = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        fields = complex_fields(rng, 16, np.sort(rng.integers(0, 40, 16)))
        tick = int(rng.integers(5, 35))
        past = fields["release"] <= tick
        n = int(rng.integers(0, 15))
        future = complex_fields(rng, n, np.sort(tick + rng.integers(1, 40, n)))
        other = {
            name: np.concatenate([value[past], future[name]]) for name, value in fields.items()
        }
        simulators = [
            TensorSimulator([with_outages(x)], setting, window=12) for x in (fields, other)
        ]
        generator = torch.Generator().manual_seed(seed)
        while int(simulators[0].state.env[0, TIME]) <= tick and simulators[0].playing.all():
            both = [features_of(simulator) for simulator in simulators]
            assert all(torch.equal(one, two) for one, two in zip(*both, strict=True))
            action = random_actions(simulators[0], generator)
            for simulator in simulators:
                simulator.step(action)
            compared += 1
    assert compared > 50


def test_features_of_a_small_problem_equal_a_hand_calculation():
    """Two tasks on two agents at tick 0; task 1 arrives at tick 3 and runs on agent 1 only."""
    instance = Instance(
        duration=[[2, 4], [-1, 8]],
        demand=[[[1], [1]], [[0], [2]]],
        capacity=[[2], [4]],
        agent_type=[0, 1],
        release=[0, 3],
        weight=[1, 3],
    )
    f = features_of(TensorSimulator([instance], Setting()))
    tau, mean_weight = (2 + 8) / 2, 2.0
    assert f.load[0].tolist() == pytest.approx([1 * 2 + 3 * 8, 0, 0, tau * 2**0.5, 2])
    first, second = f.task[0].tolist()
    assert first[:4] == pytest.approx([2 / tau, np.log(2 / tau), 3 / 2, 1 / mean_weight])
    assert second[:4] == pytest.approx([8 / tau, np.log(8 / tau), 1, 3 / mean_weight])
    assert (first[5:7], second[5:7]) == ([0, 1], pytest.approx([3 / tau, 0]))
    assert (first[9:12], second[9:12]) == (
        pytest.approx([1 / 6, 1, 1]),
        pytest.approx([1 / 3, 0, 0.5]),
    )
    smith = {(0, 0): 0.5 * tau / 2, (0, 1): 0.5 * tau / 4, (1, 1): 1.5 * tau / 8}
    on_first, on_second = f.pair[0, 0].tolist()
    assert on_first[:8] == pytest.approx(
        [2 / tau, 0, 1, 1, 1 / 2, 1 / 2, 2 / tau, np.log1p(smith[0, 0])]
    )
    lead = np.log(smith[0, 1] / smith[1, 1])
    share = np.log((smith[0, 1] / 0.25) / (smith[1, 1] / 0.5))
    assert on_first[8:12] == [5, 5, 5, 5]  # without a rival, clipped
    assert on_second[8:12] == pytest.approx([lead, 5, share, 5], rel=1e-5)
    assert on_second[12:] == pytest.approx([2 / tau, 0, 2 / tau, 4 / tau], abs=1e-6)
    assert f.pair[0, 1, 0, 2:4].tolist() == [0, 0]
    assert f.agent[0, :, 7].tolist() == pytest.approx([1, (2 + 1) / 2])
