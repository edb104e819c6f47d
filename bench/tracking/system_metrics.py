"""A thread that logs the use of CPU, memory, disk, network and GPU into a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from bench.tracking.values import now_ms


class SystemMetricsSampler:
    """Samples MLflow's system metrics; the step is the number of seconds since the run began.

    Parameters
    ----------
    monitor
        MLflow's collector (`Store.system_monitor`).
    log
        Gets the step and the values of each sample.
    start
        When the run began, in ms since 1970.
    seconds
        Between two samples.
    """

    def __init__(
        self,
        monitor: Any,
        log: Callable[[int, Mapping[str, float]], None],
        start: int,
        seconds: float,
    ) -> None:
        self._monitor = monitor
        self._log = log
        self._start = start
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end the thread."""
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._seconds)
            self._monitor.collect_metrics()
            values = {
                f"system/{key}": value for key, value in self._monitor.aggregate_metrics().items()
            }
            self._log((now_ms() - self._start) // 1000, values)
            for monitor in self._monitor.monitors:
                monitor.clear_metrics()
