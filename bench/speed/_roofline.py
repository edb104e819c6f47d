"""The roofline (Williams, Waterman & Patterson 2009): work per decision against what the machine can do at best.

FLOPs are those of matrix products, by their shapes. Bytes are those of every tensor that an operation reads or writes, as if
no cache kept any; `peaks` measures the copy of an array that no cache holds either, so a share above 1 means that caches help.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

SIDE, COPIED = 1024, 2**26  # of the matrices; bytes of the array
BINDING = 0.5  # a share from which on we say that this limit binds


class Work(NamedTuple):
    """What one decision takes, or what the device does in a second."""

    flops: float
    bytes: float


class _Bytes(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += _size(args) + _size(out)
        return out


def _size(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0


def count(function: Callable[[], Any], decisions: int) -> Work:
    """The work of a call, per decision; what is compiled outside torch is not counted."""
    with FlopCounterMode(display=False) as flops, _Bytes() as moved:
        function()
    return Work(flops.get_total_flops() / decisions, moved.total / decisions)


def peaks(device: torch.device, rounds: int = 20) -> Work:
    """FLOPs and bytes per second, best of so many rounds: a product of float32 matrices, and a copy (read and written)."""
    a, b = torch.randn(2, SIDE, SIDE, device=device)
    source = torch.zeros(COPIED // 4, device=device)
    target = torch.empty_like(source)
    product, copy = (
        _best(f, device, rounds) for f in (lambda: a @ b, lambda: target.copy_(source))
    )
    return Work(2 * SIDE**3 / product, 2 * COPIED / copy)


def _best(function: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Seconds: of the processor, or by the wall clock where a GPU works."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    found = []
    for _ in range(rounds + 1):
        began = clock()
        function()
        wait(device)
        found.append(clock() - began)
    return min(found[1:])


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def shares(work: Work, rate: float, peak: Work) -> dict[str, Any]:
    """Columns of a row that makes `rate` decisions a second: work, its shares of the peak, and which limit binds."""
    arithmetic, memory = rate * work.flops / peak.flops, rate * work.bytes / peak.bytes
    limit = "arithmetic" if arithmetic > memory else "memory"
    if max(arithmetic, memory) < BINDING:
        limit = "neither: many small operations"
    return {
        "kflop": round(work.flops / 1e3, 1),
        "kbyte": round(work.bytes / 1e3, 1),
        "of_peak_flops": round(arithmetic, 3),
        "of_peak_bytes": round(memory, 3),
        "limit": limit,
    }
