"""Synthetic deep-learning clusters: heterogeneous agents, gangs of GPUs, four kinds of tasks, calibrated to published facts.

Reference accelerator: V100. What is taken from where:

* Throughput by GPU type: medians over batch sizes of the single-GPU measurements published with Gavel (Narayanan et al.,
  OSDI 2020, `isolated_throughputs`); A100: median V100/A100 run time of the jobs published with Hydra (Yang et al., TPDS
  2023), 1.5. Recommendation runs faster on K80 and P100 than on V100: agents are truly unrelated.
* Speedup of a gang: medians over models and GPU types of the same measurements, 1.75 / 2.7 / 5.4 on 2 / 4 / 8 GPUs.
* GPU demand: 70 % one GPU, 10 % two, 15 % four, 5 % eight, as in Gavel's multi-GPU traces (after Philly).
* Training times: deciles and tail of the 47,192 jobs of October 2017 in the Philly trace (Jeon et al., ATC 2019), one table
  for one GPU and one for gangs.
* Deadlines: slack drawn uniformly, as in ElasticFlow (Gu et al., ASPLOS 2023). Arrivals: Poisson, or in bursts, because the
  gaps of the Philly trace vary 2.7 times as much as Poisson's (coefficient of variation).

Assumed, not measured: CPU rates, the mix of kinds, sizes of data and memory, inference / preprocess / deploy times.
Every number comes from `Generator.random` and plain arithmetic on literal tables, so a set is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from bench.workload import Agent, AgentType, Task, Workload, interpolate
from datasets._random import generator

Value = TypeVar("Value")

TYPES = (  # bandwidth in MB/s
    AgentType("cpu", 1250.0, accelerated=False),
    AgentType("k80", 625.0),
    AgentType("p100", 1250.0),
    AgentType("v100", 2500.0),
    AgentType("a100", 5000.0),
)
RATE = {  # throughput over V100's; a missing type is not eligible
    "resnet18": {"k80": 0.148, "p100": 0.926, "v100": 1.0, "a100": 1.5},
    "resnet50": {"k80": 0.150, "p100": 0.631, "v100": 1.0, "a100": 1.5},
    "transformer": {"k80": 0.287, "p100": 0.741, "v100": 1.0, "a100": 1.5},
    "lm": {"k80": 0.254, "p100": 0.832, "v100": 1.0, "a100": 1.5},
    "cyclegan": {"k80": 0.114, "p100": 0.543, "v100": 1.0, "a100": 1.5},
    "a3c": {"k80": 0.479, "p100": 0.792, "v100": 1.0, "a100": 1.5},
    "recommendation": {"k80": 1.398, "p100": 2.222, "v100": 1.0, "a100": 1.5},
    "serve_vision": {"cpu": 0.2, "k80": 0.15, "p100": 0.63, "v100": 1.0, "a100": 1.5},
    "serve_text": {"cpu": 0.15, "k80": 0.29, "p100": 0.74, "v100": 1.0, "a100": 1.5},
    "etl": {"cpu": 1.0, "k80": 0.6, "p100": 0.6, "v100": 0.6, "a100": 0.8},
    "rollout": {"cpu": 0.5, "k80": 0.6, "p100": 0.8, "v100": 1.0, "a100": 1.2},
}
MODELS = {
    "train": ("resnet18", "resnet50", "transformer", "lm", "cyclegan", "a3c", "recommendation"),
    "inference": ("serve_vision", "serve_text"),
    "preprocess": ("etl",),
    "deploy": ("rollout",),
}
KIND_SHARE = {"train": 0.60, "inference": 0.15, "preprocess": 0.15, "deploy": 0.10}
GPU_SHARE = {1: 0.70, 2: 0.10, 4: 0.15, 8: 0.05}
SPEEDUP = {1: 1.0, 2: 1.75, 4: 2.7, 8: 5.4}
SECONDS: dict[str, dict[float, float]] = {  # quantile -> seconds on the reference, gang and all
    "train": {0.0: 19, 0.05: 55, 0.1: 67, 0.2: 204, 0.3: 725, 0.4: 1234, 0.5: 1684, 0.6: 2201, 0.7: 2686, 0.8: 4109,
              0.9: 10709, 0.95: 27223, 0.98: 116345, 0.99: 211503, 1.0: 1047865},
    "gang": {0.0: 8, 0.1: 15, 0.2: 21, 0.3: 146, 0.4: 686, 0.5: 8418, 0.6: 41670, 0.7: 89241, 0.8: 157723, 0.9: 253793,
             0.95: 440810, 1.0: 1146366},
    "inference": {0.0: 20, 0.5: 180, 0.9: 900, 1.0: 1800},
    "preprocess": {0.0: 60, 0.5: 900, 0.9: 3600, 1.0: 7200},
    "deploy": {0.0: 10, 0.5: 60, 1.0: 300},
}  # fmt: skip
DATA = {  # quantile -> MB
    "train": {0.0: 200, 0.5: 10_000, 0.9: 150_000, 1.0: 400_000},
    "inference": {0.0: 50, 0.5: 1_000, 1.0: 20_000},
    "preprocess": {0.0: 5_000, 0.5: 60_000, 1.0: 500_000},
    "deploy": {0.0: 500, 0.5: 15_000, 1.0: 150_000},
}
MEMORY = {
    0.0: 4_096,
    0.5: 16_384,
    0.9: 57_344,
    1.0: 114_688,
}  # quantile -> MiB per GPU (per task without GPUs)
DRAWS = 14  # uniform numbers per task


class Cluster:
    """Clusters of one shape, drawn anew for each instance: same seed, split and index, same instance, on every machine.

    `agents`: mappings of type, gpus, cpus, memory (MiB) and optionally count. `tasks`: smallest and largest N. `load`: the
    tasks' GPU seconds on their fastest type, over all GPUs and the span of the arrivals. `arrivals`: poisson, bursty or
    mixed (a coin per instance). `longest`: seconds at which training times are cut off (conditional distribution).
    `tenants`: share of the tasks that each sends; each may hold `quota_share` of every resource. `slack`: due = release +
    slack * shortest time, uniform between the two. `weights`: priority -> share. `estimate_error` e: estimates lie between
    p / (1 + e) and p * (1 + e). `outages`: announced maintenance windows of `outage_seconds` per instance, on different agents.

    Raises:
        UserError: for a setting that means nothing.
    """

    def __init__(
        self,
        name: str,
        agents: Sequence[Mapping[str, Any]],
        tasks: Sequence[int],
        load: float = 1.5,
        tick_seconds: float = 60.0,
        arrivals: str = "mixed",
        longest: float = 1_047_865,
        tenants: Sequence[float] = (0.5, 0.3, 0.2),
        quota_share: float = 0.7,
        slack: Sequence[float] = (1.5, 4.0),
        weights: Mapping[int, float] | None = None,
        estimate_error: float = 0.0,
        outages: int = 0,
        outage_seconds: float = 1800.0,
        train: int = 1024,
        validation: int = 32,
        test: int = 16,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.hashes, self.seed = name, dict(hashes or {}), seed
        self.sizes = {"train": train, "validation": validation, "test": test}
        self.agents = [
            Agent(row["type"], row["gpus"], row["cpus"], row["memory"])
            for row in agents
            for _ in range(row.get("count", 1))
        ]
        used = {agent.type for agent in self.agents}
        self.types = [kind for kind in TYPES if kind.name in used]
        self.tasks, self.load, self.tick_seconds, self.arrivals = (
            tuple(tasks),
            load,
            tick_seconds,
            arrivals,
        )
        self.longest, self.slack = longest, tuple(slack)
        self.tenants, self.quota_share = dict(enumerate(tenants)), quota_share
        self.weights = {
            int(weight): share for weight, share in (weights or {1: 0.7, 2: 0.2, 4: 0.1}).items()
        }
        self.estimate_error, self.outages, self.outage_seconds = (
            estimate_error,
            outages,
            outage_seconds,
        )
        self._check(used)
        self._accelerated = {kind.name for kind in self.types if kind.accelerated}
        self._widest = max(agent.gpus for agent in self.agents)
        self._hosts: dict[tuple[str, int], Agent] = {}
        self._levels = {
            name: interpolate({seconds: q for q, seconds in table.items()}, longest)
            for name, table in SECONDS.items()
        }

    def instances(self, split: str) -> Iterator[Instance]:
        """Lazily, the instances of `split`; instance i depends on (split, i, seed) alone."""
        return (self.workload(split, i).compile() for i in range(self.sizes[split]))

    def workload(self, split: str, i: int) -> Workload:
        """The i-th problem of `split` in physical units."""
        rng = generator(split, i, self.seed)
        low, high = self.tasks
        n = low + int(rng.random() * (high - low + 1))
        drawn = [self._task(row) for row in rng.random((n, DRAWS)).tolist()]
        workload = Workload(
            drawn, self.agents, self.types, RATE, SPEEDUP, None, (), self.tick_seconds, ""
        )
        fastest = [self._fastest(workload, task) for task in drawn]
        span = (
            sum(max(task.gpus, 0) * p for task, p in zip(drawn, fastest, strict=True))
            / self._gpus()
            / self.load
        )
        released = self._arrivals(rng, n)
        tasks = [
            task._replace(
                release=round(at * span, 3), due=round(at * span + (task.due or 0.0) * p, 3)
            )
            for task, at, p in zip(drawn, released, fastest, strict=True)
        ]
        return Workload(
            tasks, self.agents, self.types, RATE, SPEEDUP, self._quota(tasks), self._outages(rng, span), self.tick_seconds,
            f"{self.name}-{split}-{i}",
        )  # fmt: skip

    # -- one task ------------------------------------------------------------------------------------------

    def _task(self, u: Sequence[float]) -> Task:
        """A task from DRAWS uniform numbers; its due date still holds the slack."""
        kind = pick(KIND_SHARE, u[0])
        model = MODELS[kind][int(u[1] * len(MODELS[kind]))]
        gpus = {"train": min(pick(GPU_SHARE, u[2]), self._widest), "preprocess": 0}.get(kind, 1)
        table = "gang" if gpus > 1 else kind
        seconds = interpolate(SECONDS[table], u[3] * self._levels[table])
        host = self._host(model, gpus)
        cpus = (4 + 4 * int(u[5] * 3)) if gpus == 0 else gpus * (2 + int(u[5] * 4))
        error = 1.0 + self.estimate_error * u[10]
        return Task(
            model=model,
            compute=round(seconds * interpolate(SPEEDUP, max(gpus, 1)), 3),
            data=round(interpolate(DATA[kind], u[4]), 3),
            gpus=gpus,
            cpus=min(cpus, host.cpus),
            memory=min(int(interpolate(MEMORY, u[6])) * max(gpus, 1), host.memory),
            kind=kind,
            due=self.slack[0] + (self.slack[1] - self.slack[0]) * u[9],
            weight=pick(self.weights, u[7]),
            tenant=pick(self.tenants, u[8]),
            misjudged=round(error if u[11] < 0.5 else 1.0 / error, 6),
        )

    def _host(self, model: str, gpus: int) -> Agent:
        """The roomiest agent for `gpus` GPUs of `model`: demands are cut to what it has, so that every task can run."""
        if (model, gpus) not in self._hosts:
            able = [
                a
                for a in self.agents
                if a.type in RATE[model] and (a.gpus >= gpus or a.type not in self._accelerated)
            ]
            self._hosts[model, gpus] = max(able, key=lambda agent: (agent.memory, agent.cpus))
        return self._hosts[model, gpus]

    def _fastest(self, workload: Workload, task: Task) -> float:
        times = [workload.seconds(task, kind) for kind in self.types if self._fits(task, kind)]
        return min(p for p in times if p is not None)

    def _fits(self, task: Task, kind: AgentType) -> bool:
        need = (task.gpus if kind.accelerated else 0, task.cpus, task.memory)
        return any(
            a.type == kind.name and all(x <= y for x, y in zip(need, a[1:], strict=True))
            for a in self.agents
        )

    # -- the whole -----------------------------------------------------------------------------------------

    def _arrivals(self, rng: np.random.Generator, n: int) -> list[float]:
        """n arrival times in [0, 1), ascending from 0: sorted uniforms (Poisson given n), or bursts of about five."""
        coin, u = rng.random(), rng.random((n, 2)).tolist()
        if self.arrivals == "bursty" or (self.arrivals == "mixed" and coin < 0.5):
            centres = rng.random(max(2, n // 5)).tolist()
            at = sorted(0.98 * centres[int(a * len(centres))] + 0.02 * b for a, b in u)
        else:
            at = sorted(a for a, _ in u)
        return [a - at[0] for a in at]

    def _quota(self, tasks: Sequence[Task]) -> list[list[int]]:
        """The same for every tenant: its share of all units, and at least what the largest task holds."""
        fields = ("gpus", "cpus", "memory")
        total = [sum(getattr(agent, field) for agent in self.agents) for field in fields]
        largest = [max(getattr(task, field) for task in tasks) for field in fields]
        return [
            [max(math.ceil(self.quota_share * a), b) for a, b in zip(total, largest, strict=True)]
            for _ in self.tenants
        ]

    def _outages(self, rng: np.random.Generator, span: float) -> list[tuple[int, float, float]]:
        draws = rng.random((len(self.agents), 2)).tolist()
        order = sorted(range(len(draws)), key=lambda agent: draws[agent][0])[: self.outages]
        return [
            (a, start, start + self.outage_seconds)
            for a in order
            for start in [round(draws[a][1] * span, 3)]
        ]

    def _gpus(self) -> int:
        return sum(agent.gpus for agent in self.agents)

    def _check(self, used: set[str]) -> None:
        unknown = sorted(used - {kind.name for kind in TYPES})
        rules: dict[str, bool] = {
            f"agents: unknown type {unknown}; known are {[kind.name for kind in TYPES]}": not unknown,
            "agents: at least one needs GPUs": self._gpus() > 0,
            "agents: a type `cpu` has no GPUs": all(
                a.gpus == 0 for a in self.agents if a.type == "cpu"
            ),
            f"arrivals: {self.arrivals!r} must be poisson, bursty or mixed": self.arrivals
            in ("poisson", "bursty", "mixed"),
            f"tasks: {self.tasks} must be smallest and largest N, 1 <= smallest <= largest": (
                len(self.tasks) == 2 and 1 <= self.tasks[0] <= self.tasks[1]
            ),
            "load, tick_seconds, longest, outage_seconds: must be positive": (
                min(self.load, self.tick_seconds, self.longest, self.outage_seconds) > 0
            ),
            f"estimate_error: {self.estimate_error} must be at least 0": self.estimate_error >= 0,
            f"outages: {self.outages} must lie between 0 and the number of agents": 0
            <= self.outages
            <= len(self.agents),
            f"slack: {self.slack} must be smallest and largest, both at least 1": (
                len(self.slack) == 2 and 1 <= self.slack[0] <= self.slack[1]
            ),
        }
        for rule, holds in rules.items():
            if not holds:
                raise UserError(f"dataset.{rule}")


def pick(shares: Mapping[Value, float], u: float) -> Value:
    """The value whose slice of [0, 1) holds `u`; shares in order, the last value takes what is left."""
    left = u * sum(shares.values())
    for value, share in shares.items():
        left -= share
        if left < 0:
            return value
    return value
