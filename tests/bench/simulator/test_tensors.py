"""The simulator over CPU tensors, and the checks of CUDA that need no GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numba import config, typeof

from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import IllegalAction, Simulator, batch
from bench.simulator.batch import random_seeds
from bench.simulator.tables import ILLEGAL, INSTANCE, NO_ACTION, STATUS, TIME
from bench.simulator.tensors import TensorSimulator

SETTINGS = [
    Setting(),
    Setting(mode="commit", backfill="easy"),
    Setting(track="schedule", observe="all", objective="tardiness"),
]


def instances(count=5):
    rng = np.random.default_rng(0)
    for _ in range(count):
        n = int(rng.integers(4, 9))
        yield Instance(
            duration=rng.integers(1, 9, (n, 2)),
            demand=rng.integers(0, 4, (n, 2, 1)),
            capacity=[[4], [5]],
            agent_type=[0, 1],
            release=rng.integers(0, 12, n),
            due=rng.integers(4, 30, n),
        )


def random_actions(tensors, rng):
    """Return (B,) legal actions, NO_ACTION where the episode is over."""
    legal = [np.flatnonzero(mask) for mask in tensors.state.mask.numpy()]
    playing = tensors.playing.tolist()
    return np.array(
        [rng.choice(legal[b]) if playing[b] else NO_ACTION for b in range(tensors.num_envs)]
    )


def assert_same(simulator, tensors):
    for here, there in zip(simulator.state, tensors.state, strict=True):
        assert np.array_equal(here, there.numpy())


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.mode} {setting.track}")
@pytest.mark.parametrize("parallel", [False, True])
def test_every_step_equals_that_of_the_simulator(setting, parallel, monkeypatch):
    if parallel:  # the environments are distributed to threads
        monkeypatch.setattr("bench.simulator.kernel.MIN_ENVS_FOR_THREADS", 1)
        monkeypatch.setattr("bench.simulator.kernel.get_num_threads", lambda: 3)
    rng = np.random.default_rng(1)
    more = {"num_envs": 12, "window": 6, "max_decisions": 6}
    simulator = Simulator(list(instances()), setting, **more)
    tensors = TensorSimulator(list(instances()), setting, **more)
    truncated = 0
    for _ in range(60):
        actions = random_actions(tensors, rng)
        rewards = tensors.step(torch.from_numpy(actions))
        assert np.array_equal(rewards.numpy(), simulator.step(actions))
        assert_same(simulator, tensors)
        for name in ("status", "terminated", "truncated"):
            assert np.array_equal(getattr(tensors, name).numpy(), getattr(simulator, name))
        truncated += int(tensors.truncated.sum())
        if not tensors.playing.any():
            tensors.restart(torch.arange(12) % 5)
            simulator.reset(np.arange(12), np.arange(12) % 5)
    tensors.check()
    assert truncated > 0
    assert torch.equal(tensors.scale, torch.from_numpy(simulator.scale))


def test_restart_resets_only_environments_whose_episode_is_over():
    tensors = TensorSimulator(list(instances()), Setting(), 3, max_decisions=4)
    tensors.restart(torch.tensor([0, 1, 2]), all_envs=True)
    first = tensors.state.mask.int().argmax(dim=1)
    tensors.step(torch.where(torch.tensor([True, False, False]), first, NO_ACTION))
    assert tensors.status.tolist() == [0, ILLEGAL, ILLEGAL]  # NO_ACTION is illegal before the end
    tensors.restart(torch.tensor([3, 3, 3]))
    assert tensors.state.env[:, INSTANCE].tolist() == [0, 1, 2]
    tensors.restart(torch.tensor([4, 3, 3]), all_envs=True)
    assert tensors.state.env[:, INSTANCE].tolist() == [4, 3, 3]
    while tensors.playing.all():
        tensors.step(torch.from_numpy(random_actions(tensors, np.random.default_rng(0))))
    over = ~tensors.playing
    before = tensors.state.env.clone()
    tensors.restart(torch.tensor([1, 1, 1]))
    assert (tensors.state.env[over, INSTANCE] == 1).all()
    assert torch.equal(tensors.state.env[~over], before[~over])
    assert tensors.playing.all()


def test_check_reports_an_illegal_action_after_a_restart():
    tensors = TensorSimulator(list(instances()), Setting())
    actions = tensors.state.mask.int().argmax(dim=1)
    actions[2] = tensors.state.mask.shape[1]
    tensors.check()
    tensors.step(actions)
    tensors.restart(torch.zeros(5, dtype=torch.int64))
    assert tensors.state.env[2, STATUS] == ILLEGAL
    with pytest.raises(IllegalAction, match="environment 2: a masked action"):
        tensors.check()
    tensors.restart(torch.zeros(5, dtype=torch.int64), all_envs=True)
    tensors.check()


def test_copied_environments_share_nothing_with_their_originals():
    rng = np.random.default_rng(2)
    tensors = TensorSimulator(list(instances()), Setting(), 6)
    tensors.step(torch.from_numpy(random_actions(tensors, rng)))
    tensors.copy(torch.tensor([0, 1]), torch.tensor([4, 5]))
    for array in tensors.state:
        assert torch.equal(array[[4, 5]], array[[0, 1]])
    before = [array[:2].clone() for array in tensors.state]
    actions = torch.from_numpy(random_actions(tensors, rng))
    tensors.copy(torch.tensor([2]), torch.tensor([3]))  # the first two do not change
    for array, old in zip(tensors.state, before, strict=True):
        assert torch.equal(array[:2], old)
    actions[3:] = actions[[2, 0, 1]]
    rewards = tensors.step(actions)
    assert torch.equal(rewards[3:], rewards[[2, 0, 1]])
    for array in tensors.state:
        assert torch.equal(array[3:], array[[2, 0, 1]])


def test_cpu_tensors_share_the_memory_of_the_simulator():
    tensors = TensorSimulator(list(instances()), Setting())
    host = tensors.host()
    assert tensors.state.env.data_ptr() == host.state.env.ctypes.data
    host.step(np.array([np.flatnonzero(mask)[0] for mask in host.state.mask]))
    assert_same(host, tensors)
    tensors.state.env[0, TIME] = 77
    assert host.state.env[0, TIME] == 77


def test_random_play_equals_that_of_the_simulator():
    simulator = Simulator(list(instances()), Setting(), 9)
    tensors = TensorSimulator(list(instances()), Setting(), 9)
    here = simulator.play_random(np.random.default_rng(5), decisions=30, restart=True)
    there = tensors.play_random(np.random.default_rng(5), decisions=30, restart=True)
    assert np.array_equal(here, there.numpy())
    assert_same(simulator, tensors)


def test_numba_cuda_is_not_imported_for_cpu_tensors():
    program = "import sys, bench.simulator.tensors; assert 'numba.cuda' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3], timeout=300
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="this process already runs test_cuda")
def test_test_cuda_passes_with_the_simulation_of_cuda():
    """Numba's simulation of CUDA has to be chosen before numba is imported."""
    pytest.importorskip("numba.cuda", reason="numba has no CUDA target here")
    file = Path(__file__).with_name("test_cuda.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed, 2 skipped" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="the simulation of CUDA compiles nothing")
@pytest.mark.parametrize("name", ["step", "restart", "play_random"])
def test_the_cuda_kernels_compile(name, monkeypatch):
    """Compile to PTX of an H100 (compute capability 9.0): it needs numba-cuda and no GPU."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (extra cuda or cuda12)")
    from numba import cuda

    capability = (9, 0)
    try:
        cuda.compile_ptx(lambda x: None, (typeof(1),), cc=capability)
    except Exception as error:
        pytest.skip(f"numba-cuda finds no compiler: {error}")
    from bench.simulator import cuda as kernels

    monkeypatch.setattr(
        "numba.cuda.dispatcher.get_current_device",
        lambda: SimpleNamespace(compute_capability=capability),
    )
    simulator, numbers = Simulator(list(instances()), Setting()), np.zeros(5, dtype=np.int64)
    more = {
        "step": (numbers,),
        "restart": (numbers, True),
        "play_random": (
            random_seeds(np.random.default_rng(0), 5),
            batch.NO_LIMIT,
            True,
            np.zeros((5, 2)),
        ),
    }
    types = tuple(typeof(x) for x in (simulator.tables, simulator.state, *more[name]))
    ptx, _ = cuda.compile_ptx(getattr(kernels, name).py_func, types, cc=capability)
    assert ".target sm_90" in ptx
    assert ".entry" in ptx


def test_other_environments_of_the_same_instances_follow_a_replacement():
    drawn = list(instances(6))
    largest = max(drawn, key=lambda one: one.n_tasks)
    drawn.remove(largest)
    first, second = [largest, *drawn[:2]], drawn[2:]
    simulator = TensorSimulator(first, Setting(), 2)
    other = simulator.with_envs(6)
    simulator.step(simulator.state.mask.byte().argmax(dim=1))
    assert torch.equal(other.state.env[:3], TensorSimulator(first, Setting()).state.env)
    simulator.replace([0, 2], [second[0], second[2]])
    now = [second[0], first[1], second[2]]
    assert simulator.instances == other.instances
    assert [one.hash() for one in other.instances] == [one.hash() for one in now]
    rows = torch.arange(6) % 3
    afresh = TensorSimulator(now, Setting(), 6)
    for one in (other, afresh):
        one.restart(rows, all_envs=True)
    returns = [one.play_random(np.random.default_rng(1)) for one in (other, afresh)]
    assert torch.equal(*returns)
