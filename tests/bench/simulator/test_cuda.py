"""The simulator on CUDA gives the same states and rewards as on the CPU, step by step.

With NUMBA_ENABLE_CUDASIM=1 numba simulates the kernels without a GPU; `test_tensors` runs this file
in that way.
"""

import importlib.util

import numpy as np
import pytest
import torch
from numba import config
from torch.testing import assert_close

from bench.instance import Instance, Outage
from bench.setting import Setting
from bench.simulator import IllegalAction, Simulator
from bench.simulator.tables import NO_ACTION, STATUS, SimulatorState
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import BatchView, from_simulator
from bench.speed import simulator as benchmark
from solvers.networks.features import empty_features, featurize
from solvers.ppo import PPO
from solvers.rl.advantage_kernel import Steps
from solvers.rl.advantages import gae

GPU = torch.cuda.is_available() and importlib.util.find_spec("numba_cuda") is not None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (config.ENABLE_CUDASIM or GPU),
        reason="no CUDA device with numba-cuda (NUMBA_ENABLE_CUDASIM=1 needs none)",
    ),
]

B = 8  # environments
COMMIT = {"mode": "commit", "backfill": "easy"}
CASES = {
    "fit": ({}, {}),
    "online": ({"track": "online", "observe": "arrived"}, {"estimates": True}),
    "clairvoyant and shaped": ({"track": "schedule", "observe": "all"}, {"shaped": True}),
    "commit and backfill": (COMMIT, {"max_decisions": 12}),
    "outages and quotas": ({"objective": "tardiness"}, {"outages": True, "quotas": True}),
    "the same in commit mode": (COMMIT, {"outages": True, "quotas": True}),
    "bounded slowdown": ({"objective": "bounded_slowdown"}, {"window": 4}),
    "makespan, sequential": ({"objective": "makespan", "event_order": "sequential"}, {}),
    "budget": ({"track": "assign"}, {"sharing": "budget"}),
    "no resources": ({}, {"outages": True, "quotas": True, "resources": 0}),
}


def instances(rng, sharing="time", outages=False, quotas=False, resources=2, estimates=False):
    """Yield six instances of at most two resources on three agents of two types."""
    time = sharing == "time"
    capacity = [[4, 5], [6, 4], [4, 4]] if time else [[14, 15], [16, 14], [14, 14]]
    for _ in range(6):
        n = int(rng.integers(6, 11))
        more = {}
        if time:
            more.update(release=rng.integers(0, 20, n), due=rng.integers(5, 40, n))
        if outages:
            more.update(outages=[Outage(0, 5, 9), Outage(1, 12, 14, announced=False)])
        if quotas:
            more.update(
                tenant=rng.integers(0, 2, n), quota=np.array([[6, 7], [7, 6]])[:, :resources]
            )
        duration = rng.integers(1, 12, (n, 2))
        if estimates:
            more.update(estimate=np.maximum(1, duration + rng.integers(-5, 6, (n, 2))))
        yield Instance(
            duration=duration,
            demand=rng.integers(0, 4, (n, 2, 2))[..., :resources],
            capacity=np.array(capacity)[:, :resources],
            agent_type=[0, 1, 1],
            sharing=sharing,
            **more,
        )


def pair(case):
    """Return a Simulator and a TensorSimulator on CUDA of the same environments."""
    setting, more = CASES[case]
    names = ("sharing", "outages", "quotas", "resources", "estimates")
    kind = {name: more[name] for name in names if name in more}
    options = {name: value for name, value in more.items() if name not in kind}
    drawn = list(instances(np.random.default_rng(0), **kind))
    setting = Setting(**setting)
    return Simulator(drawn, setting, B, **options), TensorSimulator(
        drawn, setting, B, **options, device="cuda"
    )


def random_actions(simulator, rng):
    """Return (B,) legal actions, NO_ACTION where there is none."""
    legal = [np.flatnonzero(mask) for mask in simulator.state.mask]
    return np.array([rng.choice(choices) if len(choices) else NO_ACTION for choices in legal])


def step(simulator, tensors, rng):
    """Take the same random action in both; the rewards must be equal."""
    actions = np.where(
        simulator.terminated | simulator.truncated, NO_ACTION, random_actions(simulator, rng)
    )
    rewards = tensors.step(torch.from_numpy(actions).to(tensors.device))
    np.testing.assert_allclose(rewards.cpu().numpy(), simulator.step(actions), rtol=1e-12)


def assert_same(simulator, tensors):
    for name, here, there in zip(
        SimulatorState._fields, simulator.state, tensors.state, strict=True
    ):
        np.testing.assert_allclose(there.cpu().numpy(), here, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_steps_and_restarts_equal_those_of_the_cpu(case):
    rng = np.random.default_rng(1)
    ended = 0
    simulator, tensors = pair(case)
    assert_same(simulator, tensors)
    for _ in range(50):
        step(simulator, tensors, rng)
        assert_same(simulator, tensors)
        over = simulator.terminated | simulator.truncated
        assert np.array_equal(tensors.terminated.cpu().numpy(), simulator.terminated)
        assert np.array_equal(tensors.playing.cpu().numpy(), ~over)
        if over.sum() > B // 2:
            new = rng.integers(0, 6, B)
            simulator.reset(np.flatnonzero(over), new[over])
            tensors.restart(torch.from_numpy(new).to(tensors.device))
            assert_same(simulator, tensors)
            ended += over.sum()
    tensors.check()
    assert ended > B
    new = rng.integers(0, 6, B)
    simulator.reset(np.arange(B), new)
    tensors.restart(torch.from_numpy(new).to(tensors.device), all_envs=True)
    assert_same(simulator, tensors)


def test_copied_environments_continue_like_their_originals():
    rng = np.random.default_rng(2)
    simulator, tensors = pair("outages and quotas")
    for _ in range(5):
        step(simulator, tensors, rng)
    source, target = [0, 1, 2], [5, 6, 7]
    tensors.copy(
        torch.tensor(source, device=tensors.device), torch.tensor(target, device=tensors.device)
    )
    for array in simulator.state:
        array[target] = array[source]
    for _ in range(5):
        step(simulator, tensors, rng)
        assert_same(simulator, tensors)
    for column in ("task", "agent", "start", "end"):
        assert np.array_equal(
            getattr(tensors.host().schedule(6), column), getattr(simulator.schedule(6), column)
        )


@pytest.mark.parametrize("case", ["online", "clairvoyant and shaped", "outages and quotas"])
def test_features_of_networks_equal_those_of_the_cpu(case):
    rng = np.random.default_rng(3)
    simulator, tensors = pair(case)
    on_cpu = TensorSimulator(simulator.instances, simulator.setting, B)
    hidden = 0
    for _ in range(6):
        actions = torch.from_numpy(random_actions(on_cpu.host(), rng))
        on_cpu.step(actions)
        tensors.step(actions.to(tensors.device))
        for clairvoyant in (False, True):
            views = from_simulator(on_cpu, clairvoyant), from_simulator(tensors, clairvoyant)
            for here, there in zip(*map(featurize, views), strict=True):
                assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)
        hidden += int((views[0].shown & ~from_simulator(on_cpu).shown).sum())
    assert (hidden > 0) == (case == "online")


@pytest.mark.parametrize("case", ["clairvoyant and shaped", "outages and quotas"])
def test_the_gpus_code_of_features_equals_that_of_the_cpu(case):
    from solvers.networks.kernels import features_cuda  # needs numba-cuda, or its simulation

    _, tensors = pair(case)
    view = from_simulator(tensors)
    expected = featurize(BatchView._make(column.cpu() for column in view))
    arrays = empty_features(view)
    features_cuda.write_features(view, arrays)
    for name in ("task", "agent", "pair", "present", "load"):
        here, there = getattr(expected, name), getattr(arrays, name)
        assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)


def test_the_gpus_code_of_advantages_equals_that_of_the_cpu():
    from solvers.rl import advantage_cuda  # needs numba-cuda, or its simulation

    _, tensors = pair("fit")
    generator = torch.Generator().manual_seed(0)
    floats = torch.randn(3, 20, B, generator=generator)
    ends = torch.rand(2, 20, B, generator=generator) < 0.2
    columns = [*floats, ends[0], ends[1] & ~ends[0]]
    steps = Steps(*columns, torch.empty(20, B))
    on_device = Steps._make(column.to(tensors.device) for column in steps)
    advantage_cuda.estimate_advantages(on_device, 0.9, 0.8)
    assert_close(on_device.advantage.cpu(), gae(*columns, 0.9, 0.8), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["fit", "budget"])
def test_random_play_equals_that_of_the_cpu(case):
    simulator, tensors = pair(case)
    for decisions, restart in ((7, False), (40, True)):
        here = simulator.play_random(np.random.default_rng(4), decisions, restart)
        there = tensors.play_random(np.random.default_rng(4), decisions, restart)
        np.testing.assert_allclose(there.cpu().numpy(), here, rtol=1e-12)
        assert_same(simulator, tensors)
    assert here[:, 0].sum() >= B


def test_check_reports_an_illegal_action_after_a_restart():
    _, tensors = pair("fit")
    actions = tensors.state.mask.int().argmax(dim=1)
    actions[3] = 10**6
    tensors.step(actions)
    tensors.restart(torch.zeros_like(actions))
    with pytest.raises(IllegalAction, match="environment 3"):
        tensors.check()


@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="CPU tensors need no synchronisation")
def test_step_restart_and_copy_do_not_synchronise_with_the_gpu():
    _, tensors = pair("fit")
    numbers = torch.arange(B, device=tensors.device)
    stay = torch.where(tensors.playing, tensors.state.mask.int().argmax(dim=1), NO_ACTION)
    tensors.step(stay)
    tensors.restart(numbers % 6)  # now all kernels are compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            featurize(from_simulator(tensors))
            tensors.step(
                torch.where(tensors.playing, tensors.state.mask.int().argmax(dim=1), NO_ACTION)
            )
            tensors.restart(numbers % 6)
            tensors.copy(numbers[:2], numbers[2:4])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tensors.check()


@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="the simulator of CUDA has no streams")
def test_kernels_run_on_the_current_stream_of_torch():
    rng = np.random.default_rng(5)
    simulator, tensors = pair("fit")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10**8)  # kernels on another stream would finish before
        for _ in range(5):
            step(simulator, tensors, rng)
        assert_same(simulator, tensors)
    assert tensors.state.env[:, STATUS].is_cuda


@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="it needs CUDA graphs")
def test_updates_by_cuda_graphs_equal_those_without():
    trainers = []
    for recorded in (False, True):
        learner = PPO(
            device="cuda",
            num_envs=64,
            steps=8,
            minibatch=128,
            width=16,
            max_kl=1e9,
            cuda_graphs=True,
        )
        trainer = learner.trainer(list(instances(np.random.default_rng(5))), Setting())
        trainer.collector._graphed_step.recorder = None  # draws differ in a graph
        if not recorded:
            trainer.graphs = None
        for _ in range(4):
            trainer.train_iteration()
        trainers.append(trainer)
    assert trainers[1].minibatches._update_rows.replay is not None
    assert_close(trainers[0].weights.flat, trainers[1].weights.flat, rtol=1e-2, atol=1e-4)


@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="it needs CUDA graphs")
def test_rollouts_by_cuda_graphs_are_legal_and_as_good_as_those_without():
    returns = []
    for graphs in (False, True):
        learner = PPO(device="cuda", num_envs=256, steps=64, width=16, cuda_graphs=graphs)
        trainer = learner.trainer(list(instances(np.random.default_rng(5))), Setting())
        found = [learner.collect(trainer).episodic_return for _ in range(4)]  # checks legality
        returns.append(np.mean(found))
    assert trainer.collector._graphed_step.replay is not None
    assert returns[1] == pytest.approx(returns[0], rel=0.1)


def test_the_benchmark_of_random_play_on_a_gpu_returns_a_row(monkeypatch):
    monkeypatch.setattr(benchmark, "GPU_ENVIRONMENTS", B)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    drawn = [benchmark.draw_instance(np.random.default_rng(6), "quotas")]
    row = benchmark.gpu_row("quotas", drawn, rounds=1, cpu_rate=1e6)
    assert row["decisions_per_second"] > 0
    assert (row["environments"], row["note"], row["per_cpu_second"]) == (B, "a GPU", None)
