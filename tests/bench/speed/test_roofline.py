"""The roofline model: work is counted as by hand, and peaks are rates of known work."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.speed import _roofline
from bench.speed._roofline import Work, count_work, measure_peaks, roofline_columns

CPU = torch.device("cpu")


def test_work_equals_hand_calculation():
    layer, x = nn.Linear(3, 5), torch.ones(2, 3)
    with torch.no_grad():
        work = count_work(lambda: layer(x), 2)
    bias, inputs, weight, output = 5, 2 * 3, 3 * 5, 2 * 5
    assert work == Work(2 * 2 * 3 * 5 / 2, 4 * (bias + inputs + weight + output) / 2)
    assert count_work(lambda: x.T, 1) == Work(0, 0)


def test_the_limit_is_the_larger_share_if_it_is_large():
    peak = Work(1000.0, 100.0)
    assert roofline_columns(Work(8.0, 0.1), 100.0, peak)["limit"] == "arithmetic"
    assert roofline_columns(Work(1.0, 0.9), 100.0, peak)["limit"] == "memory"
    row = roofline_columns(Work(2.0, 0.3), 100.0, peak)
    assert (row["of_peak_flops"], row["of_peak_bytes"]) == (0.2, 0.3)
    assert row["limit"] == "neither: many small operations"


def test_peaks_are_the_work_of_the_measured_calls_per_second(monkeypatch):
    counted = []

    def take_half_a_second(function, device, rounds):
        counted.append(count_work(function, 1))
        return 0.5

    monkeypatch.setattr(_roofline, "MATRIX_SIZE", 8)
    monkeypatch.setattr(_roofline, "COPIED_BYTES", 4096)
    monkeypatch.setattr(_roofline, "_best_seconds", take_half_a_second)
    peak = measure_peaks(CPU)
    product, copy = counted
    assert peak.flops == product.flops / 0.5 == 2 * 8**3 / 0.5
    # The counter adds up the target as an argument and as the result, and the source.
    assert copy.bytes == 3 * 4096
    assert peak.bytes == 2 * 4096 / 0.5  # read and written


@pytest.mark.parametrize(("device", "expected"), [("cpu", 3), ("cuda", 20)])
def test_best_seconds_leave_out_the_first_call(device, expected, monkeypatch):
    processor = iter([0, 1, 1, 4, 4, 9])  # the calls take 1, 3 and 5 seconds
    wall = iter([0, 10, 10, 30, 30, 60])  # 10, 20 and 30 seconds
    clock = SimpleNamespace(process_time=lambda: next(processor), perf_counter=lambda: next(wall))
    monkeypatch.setattr(_roofline, "time", clock)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    seconds = _roofline._best_seconds(lambda: None, torch.device(device), 2)
    assert seconds == expected
