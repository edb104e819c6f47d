"""Roofline model (Williams, Waterman & Patterson 2009): work per decision against peak rates.

FLOPs are those of matrix products, computed from their shapes. Bytes are those of every tensor that
an operation reads or writes, as if there were no cache. `peaks` measures memory with an array that
does not fit a cache either, so a share above 1 means that caches help.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

MATRIX_SIZE = 1024  # rows and columns of the matrices
COPIED_BYTES = 2**26  # of the array that is copied
BINDING_SHARE = 0.5  # a limit binds if its share of the peak is at least this


class Work(NamedTuple):
    """FLOPs and bytes: per decision, or per second of a device."""

    flops: float
    bytes: float


class _ByteCounter(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += _tensor_bytes(args) + _tensor_bytes(out)
        return out


def _tensor_bytes(value: Any) -> int:
    """Return the bytes of all tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_tensor_bytes, value)) if isinstance(value, list | tuple) else 0


def count_work(function: Callable[[], Any], decisions: int) -> Work:
    """Call `function` and return its work per decision; code outside torch is not counted."""
    with FlopCounterMode(display=False) as flops, _ByteCounter() as moved:
        function()
    return Work(flops.get_total_flops() / decisions, moved.total / decisions)


def measure_peaks(device: torch.device, rounds: int = 20) -> Work:
    """Measure the peak FLOPs and bytes per second of a device, the best of `rounds`.

    FLOPs by a product of float32 matrices, bytes (read and written) by the copy of an array.
    """
    a, b = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE, device=device)
    source = torch.zeros(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    product_seconds = _best_seconds(lambda: a @ b, device, rounds)
    copy_seconds = _best_seconds(lambda: target.copy_(source), device, rounds)
    return Work(2 * MATRIX_SIZE**3 / product_seconds, 2 * COPIED_BYTES / copy_seconds)


def _best_seconds(function: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Return the shortest of `rounds` calls after a first one that is not counted.

    The seconds are those of the processor, or of the wall clock for a GPU.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []
    for _ in range(rounds + 1):
        began = clock()
        function()
        synchronize(device)
        seconds.append(clock() - began)
    return min(seconds[1:])


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def roofline_columns(work: Work, rate: float, peak: Work) -> dict[str, Any]:
    """Return the columns of a table for `rate` decisions per second.

    They are the work per decision, its shares of the peak rates, and the limit that binds.
    """
    arithmetic = rate * work.flops / peak.flops
    memory = rate * work.bytes / peak.bytes
    limit = "arithmetic" if arithmetic > memory else "memory"
    if max(arithmetic, memory) < BINDING_SHARE:
        limit = "neither: many small operations"
    return {
        "kflop": round(work.flops / 1e3, 1),
        "kbyte": round(work.bytes / 1e3, 1),
        "of_peak_flops": round(arithmetic, 3),
        "of_peak_bytes": round(memory, 3),
        "limit": limit,
    }
