"""CUDA graphs: what a function does on a GPU, recorded once and repeated by one call.

A step of a rollout or an update launches some hundred kernels, and launching one takes the host
longer than the GPU needs for a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

WARM_UPS = 3  # calls before the function is recorded: they compile, and allocate what stays

Replay = Callable[[], None]


class Recorder(Protocol):
    """How functions are recorded."""

    def warm_up(self, function: Callable[[], None]) -> None:
        """Call a function that is going to be recorded."""

    def record(self, function: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
        """Return what repeats the function, which is not carried out now."""


class GraphedCall:
    """A function without arguments or results that is recorded and then repeated.

    It must do the same with the same memory at every call: it reads and writes tensors that stay
    where they are, and no number on the host changes what it does. Numbers that change are tensors.

    Parameters
    ----------
    function
        The function.
    recorder
        Records it; None: it is always called.
    generators
        The random generators that it draws from.
    """

    def __init__(
        self,
        function: Callable[[], None],
        recorder: Recorder | None,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.function = function
        self.recorder = recorder
        self.generators = generators
        self.calls = 0
        self.replay: Replay | None = None

    def __call__(self) -> None:
        """Call the function, or repeat what was recorded of it."""
        if self.recorder is None:
            self.function()
        elif self.calls < WARM_UPS:
            self.calls += 1
            self.recorder.warm_up(self.function)
        else:
            if self.replay is None:
                self.replay = self.recorder.record(self.function, self.generators)
            self.replay()


class GpuRecorder:
    """Records CUDA graphs, on a stream of its own.

    Functions are warmed up on that stream, because numba's launches are recorded only where the
    same kernel was launched on the same stream before (`bench.simulator.cuda.launch`).
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def warm_up(self, function: Callable[[], None]) -> None:
        """Call a function on the stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            function()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, function: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay:
        """Return the replay of a new graph."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self.stream):
            function()
        return graph.replay
