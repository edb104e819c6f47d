"""The flat vectors of logged datasets hold the same observation as the simulator."""

import numpy as np
import pytest
import torch

from bench.instance import Instance
from bench.setting import Setting
from bench.simulator.tables import NO_ACTION
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import BatchView, Layout, from_simulator, layout_of, return_scale
from solvers.networks.features import featurize
from solvers.rl.rollouts import sample
from tests.solvers.learning import (
    budget_instance,
    complex_fields,
    complex_instance,
    random_instance,
)

SETTINGS = {
    "schedule": (random_instance, Setting(objective="tardiness")),
    "online": (complex_instance, Setting(track="online", observe="arrived")),
    "assign": (budget_instance, Setting(track="assign")),
    "slowdown": (random_instance, Setting(objective="bounded_slowdown")),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_features_of_a_flat_vector_equal_those_of_the_simulator(name):
    make, setting = SETTINGS[name]
    rng = np.random.default_rng(3)
    simulator = TensorSimulator([make(np.random.default_rng(k)) for k in range(5)], setting)
    layout = layout_of(simulator)
    for _ in range(12):
        view = from_simulator(simulator)
        flat = layout.flat(view, return_scale(simulator))
        assert flat.shape == (5, layout.size)
        assert flat.dtype == torch.float32
        assert torch.isfinite(flat).all()
        for one, other in zip(featurize(layout.view(flat)), featurize(view), strict=True):
            assert torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-5)
        assert torch.equal(layout.view(flat).mask, view.mask)
        assert torch.allclose(layout.scale(flat).double(), return_scale(simulator), rtol=1e-6)
        simulator.play_random(rng, 1)


def test_the_layout_of_a_flat_vector():
    layout = Layout(3, 2, 4)
    assert layout.actions == 7
    assert layout.size == 5 * 3 + 6 + 24 + 12 + 8 + 8 + 4 * 2 + 1 + 7
    zeros = torch.zeros(2, layout.size)
    assert not layout.view(zeros).shown.any()
    assert not layout.view(zeros).mask.any()
    assert all(torch.isfinite(column.float()).all() for column in featurize(layout.view(zeros)))


def test_the_return_scale_of_bounded_slowdown_counts_tasks():
    instances = [random_instance(np.random.default_rng(k)) for k in range(2)]
    mean = TensorSimulator(instances, Setting(objective="bounded_slowdown"))
    assert torch.equal(
        return_scale(mean), mean.scale * torch.tensor([i.n_tasks for i in instances])
    )
    total = TensorSimulator(instances, Setting())
    assert torch.equal(return_scale(total), total.scale)


def uncertain_instance(rng: np.random.Generator) -> Instance:
    """Return an instance with arrivals and wrong estimates, in which only capacities decide."""
    fields = complex_fields(rng, 10, np.sort(rng.integers(0, 30, 10)))
    return Instance(**fields, capacity=[[4, 6], [3, 3], [5, 4]], agent_type=[0, 1, 0])


@pytest.mark.parametrize("mode", ["fit", "commit"])
@pytest.mark.parametrize("window", [None, 4])
def test_a_critic_observes_what_a_policy_would_that_knows_the_future(mode, window):
    instances = [uncertain_instance(np.random.default_rng(k)) for k in range(6)]
    online = Setting(track="online", observe="arrived", mode=mode)
    played = TensorSimulator(instances, online, window=window)
    twin = TensorSimulator(instances, Setting(mode=mode), window=window)
    generator = torch.Generator().manual_seed(1)
    hidden = 0
    for _ in range(25):
        view, other = from_simulator(played, clairvoyant=True), from_simulator(twin)
        own = from_simulator(played)
        assert torch.equal(view.mask, own.mask)
        playing = played.playing
        for name in set(BatchView._fields) - {"mask"}:
            one, two = getattr(view, name)[playing], getattr(other, name)[playing]
            assert torch.equal(one, two), name
        hidden += int((view.shown & ~own.shown)[playing].sum())
        # what the policy may do is also possible with knowledge of the future
        action = sample(own.mask.float().log(), generator)
        action = torch.where(playing, action, NO_ACTION)
        played.step(action)
        twin.step(action)
        twin.check()
    assert hidden > 0
    assert not played.playing.any()


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"online"}))
def test_a_critic_observes_nothing_new_where_the_policy_knows_all(name):
    make, setting = SETTINGS[name]
    simulator = TensorSimulator([make(np.random.default_rng(k)) for k in range(5)], setting)
    for _ in range(8):
        pair = from_simulator(simulator, clairvoyant=True), from_simulator(simulator)
        for one, other in zip(*pair, strict=True):
            assert torch.equal(one[simulator.playing], other[simulator.playing])
        simulator.play_random(np.random.default_rng(2), 1)
