"""The speed benchmark of the simulator: the eager simulator plays the same decision process."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.simulator import Simulator
from bench.simulator.tables import FREE, LAST_END, NEXT_END, RUNNING, STATUS
from bench.speed import simulator as benchmark
from bench.speed._eager import EagerSimulator


@pytest.mark.parametrize("kind", ["poisson", "at once"])
def test_eager_simulator_equals_the_simulator(kind):
    rng = np.random.default_rng(1)
    instances = [benchmark.draw_instance(rng, kind) for _ in range(12)]
    simulator = Simulator(instances, benchmark.SETTING)
    eager = EagerSimulator(instances, seed=0)
    ended = 0
    for _ in range(150):
        assert np.array_equal(simulator.state.mask, eager.mask.numpy())
        assert np.array_equal(simulator.state.window, eager.window.numpy())
        for column, value in (
            (FREE, eager.free[..., 0]),
            (NEXT_END, eager.next_end),
            (LAST_END, eager.last_end),
        ):
            assert np.array_equal(simulator.state.agents[..., column], value.numpy())
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in simulator.state.mask])
        rewards = simulator.step(actions).copy()
        eager_rewards = eager.step(torch.from_numpy(actions)).numpy()
        np.testing.assert_allclose(rewards, eager_rewards, rtol=1e-12)
        over = np.flatnonzero(simulator.state.env[:, STATUS] != RUNNING)
        assert np.array_equal(over, np.flatnonzero(eager.done.numpy()))
        if len(over):
            simulator.reset(over, over)
            eager.restart(eager.done)
        ended += len(over)
    assert ended > 12


def test_random_play_of_the_eager_simulator_restarts_episodes():
    instances = [benchmark.draw_instance(np.random.default_rng(2), "poisson")] * 2
    eager = EagerSimulator(instances, seed=0)
    # An episode has at most 64 decisions, and its return is at most -1.
    assert (eager.play_random(200) < -3).all()
    assert not eager.done.all()


def test_without_a_gpu_its_row_has_no_numbers(monkeypatch):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    row = benchmark.gpu_row("poisson", [], rounds=1, cpu_rate=1e6)
    assert row["note"] == "not measured: no CUDA device"
    assert row["decisions_per_second"] is row["per_cpu_second"] is row["ratio"] is None


def test_rates_are_the_best_of_the_rounds_after_the_first_call(monkeypatch):
    calls = []
    wall = iter([0, 4, 4, 6])  # the two measured rounds take 4 and 2 seconds
    processor = iter([0, 1, 1, 4])  # 1 and 3 seconds
    clock = SimpleNamespace(
        perf_counter=lambda: next(wall) if calls else pytest.fail("the first call is measured"),
        thread_time=lambda: next(processor),
    )
    monkeypatch.setattr(benchmark, "time", clock)
    rates = benchmark.measure(calls.append, decisions=10, environments=6, rounds=2)
    assert rates == (60 / 2, 60 / 1)
    assert calls == [10, 10, 10]
