"""Steps and updates can be recorded: repeated, they do what the functions themselves would do.

A CUDA graph repeats operations on the same memory, without what Python did around them. Here a
recorder does so on the CPU. On a GPU `tests/bench/simulator/test_cuda.py` compares both.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.simulator import tensors
from solvers.networks import features, graph
from solvers.ppo import PPO
from solvers.rl.cuda_graphs import WARM_UPS, GraphedCall
from tests.solvers.learning import FixedDataset, random_instance, setting_of, small_learner

READS = {"aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal"}


class CpuRecorder(TorchDispatchMode):
    """Records operations of torch, and the compiled kernels that `recorded` wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Callable[[], None]] | None = None
        self.recordings = 0

    def warm_up(self, function: Callable[[], None]) -> None:
        function()

    def record(self, function: Callable[[], None], generators: Any) -> Callable[[], None]:
        self.recordings += 1
        self.records = records = []
        # while a GPU records, nothing is carried out: here it is, once, instead of a first replay
        with self:
            function()
        self.records = None
        first = [True]

        def replay() -> None:
            if first:
                first.clear()
                return
            with torch.no_grad():
                for one in records:
                    one()

        return replay

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket._qualified_op_name.replace("::", ".") not in READS, func
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            written = [one for one in tree_leaves(out) if isinstance(one, Tensor)]

            def again() -> None:
                new = tree_leaves(func(*args, **(kwargs or {})))
                for old, value in zip(written, filter(torch.is_tensor, new), strict=True):
                    if old.data_ptr() != value.data_ptr():
                        old.copy_(value)

            self.records.append(again)
        return out

    def wrapped(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls a kernel, and records the call."""

        def call(*args: Any) -> Any:
            out = kernel(*args)
            if self.records is not None:
                self.records.append(lambda: kernel(*args))
            return out

        return call


@pytest.fixture
def recorder(monkeypatch):
    """A recorder that also records what the simulator and the features do."""
    made = CpuRecorder()
    monkeypatch.setattr(graph, "COMPILED", False)
    for name in ("step", "restart", "observe"):
        method = getattr(tensors.CpuBackend, name)
        monkeypatch.setattr(tensors.CpuBackend, name, made.wrapped(method))
    monkeypatch.setattr(features, "write_features", made.wrapped(features.write_features))
    return made


def trained(recorder: CpuRecorder | None, iterations: int, **changes: Any) -> Any:
    learner = small_learner(
        PPO, steps=6, minibatch=32, epochs=2, max_kl=1e9, entropy=0.05, **changes
    )
    instances = list(FixedDataset(random_instance, 8).instances("train"))
    trainer = learner.trainer(instances, setting_of(learner), decisions=16 * 6 * 20)
    # on a GPU the learner makes this one: the rate is a tensor, so that a recorded step reads it
    weights, lr = [trainer.weights.flat], torch.tensor(learner.lr)
    trainer.optimizer = torch.optim.Adam(weights, lr=lr, eps=1e-5, fused=True)
    if recorder is not None:
        trainer.graphs = recorder
        collector = trainer.collector
        collector._graphed_step = GraphedCall(collector.play_step, recorder, [collector.generator])
    values = [trainer.train_iteration() for _ in range(iterations)]
    return trainer, values


@pytest.mark.parametrize("critic", ["shared", "clairvoyant"])
def test_recorded_steps_and_updates_train_the_same_network(recorder, critic):
    plain, expected = trained(None, 5, critic=critic)
    recorded, found = trained(recorder, 5, critic=critic)
    assert recorder.recordings == 2  # a step of the rollout, and a minibatch
    torch.testing.assert_close(recorded.weights.flat, plain.weights.flat)
    ignored = ("charts/SPS", "charts/rollout_share")
    for one, other in zip(found, expected, strict=True):
        for name in set(one) - set(ignored):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name


def test_a_function_is_warmed_up_recorded_and_repeated():
    calls = []

    class Recorder:
        def warm_up(self, function):
            calls.append("warm up")
            function()

        def record(self, function, generators):
            calls.append("record")
            return lambda: calls.append("replay")

    one = GraphedCall(lambda: calls.append("call"), Recorder())
    for _ in range(WARM_UPS + 2):
        one()
    assert calls == ["warm up", "call"] * WARM_UPS + ["record", "replay", "replay"]
