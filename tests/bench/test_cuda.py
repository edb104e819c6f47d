"""The transition function inside a CUDA kernel, in lock-step with the CPU.

NUMBA_ENABLE_CUDASIM=1 runs the test without a GPU; numba's CUDA simulator then calls the CPU's compiled code from the kernel.
"""

import numpy as np
import pytest
from numba import config

from bench.instance import Instance, Outage
from bench.setting import Setting
from bench.simulator import Simulator, kernel
from bench.simulator.tables import LEAVE, State, Tables

cuda = pytest.importorskip("numba.cuda", reason="numba has no CUDA target here")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda.is_available(), reason="no CUDA device (NUMBA_ENABLE_CUDASIM=1 needs none)"),
]

SETTINGS = [Setting(), Setting(mode="commit", backfill="easy", objective="bounded_slowdown")]
STEPS = 200


def instances(rng):
    """Eight instances with quotas and outages."""
    for _ in range(8):
        yield Instance(
            duration=rng.integers(1, 12, (10, 2)),
            demand=rng.integers(0, 4, (10, 2, 2)),
            capacity=[[4, 5], [6, 4], [4, 4]],
            agent_type=[0, 1, 1],
            release=rng.integers(0, 20, 10),
            tenant=rng.integers(0, 2, 10),
            quota=[[6, 7], [7, 6]],
            outages=[Outage(0, 5, 9), Outage(1, 12, 14, announced=False)],
        )


def put(array):
    """To the device; the simulator of CUDA wants plain arrays inside a tuple."""
    return array.copy() if config.ENABLE_CUDASIM else cuda.to_device(array)


def get(array):
    return array if config.ENABLE_CUDASIM else array.copy_to_host()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.mode)
def test_a_kernel_makes_the_same_transitions(setting):
    @cuda.jit
    def step_all(tables, state, actions):
        b = cuda.grid(1)
        if b < actions.shape[0]:
            kernel.step(tables, state, np.uint64(b), actions[b])

    rng = np.random.default_rng(0)
    simulator = Simulator(list(instances(rng)), setting)
    tables = Tables(*(put(x) if isinstance(x, np.ndarray) else x for x in simulator.tables))
    state = State(*(put(x) for x in simulator.state))
    ended = 0
    for _ in range(STEPS):
        legal = [np.flatnonzero(mask) for mask in simulator.state.mask]
        actions = np.array([rng.choice(choices) if len(choices) else LEAVE for choices in legal])
        simulator.step(actions)
        step_all[1, 32](tables, state, cuda.to_device(actions))
        for name, here, there in zip(State._fields, simulator.state, state, strict=True):
            np.testing.assert_allclose(get(there), here, rtol=1e-12, err_msg=name)
        if simulator.terminated.all():
            ended += 1
            simulator.reset(np.arange(8), np.arange(8))
            state = State(*(put(x) for x in simulator.state))
    assert ended > 3
