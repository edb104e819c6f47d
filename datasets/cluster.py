"""Synthetic deep-learning clusters, calibrated to published measurements.

An instance has heterogeneous agents, gangs of GPUs and four kinds of tasks. The reference
accelerator is the V100. Sources of the numbers:

* Throughput by GPU type: medians over batch sizes of the single-GPU measurements published with
  Gavel (Narayanan et al., OSDI 2020, `isolated_throughputs`); A100: 1.5, the median of V100 / A100
  run times of the jobs published with Hydra (Yang et al., TPDS 2023). Recommendation runs faster
  on K80 and P100 than on V100, so the agents are unrelated machines.
* Speedup of a gang: medians over models and GPU types of the same measurements,
  1.75 / 2.7 / 5.4 on 2 / 4 / 8 GPUs.
* GPU demand: 70 % one GPU, 10 % two, 15 % four, 5 % eight, as in the multi-GPU traces of Gavel
  (after Philly).
* Training times: deciles and tail of the 47,192 jobs of October 2017 in the Philly trace (Jeon et
  al., ATC 2019), one table for one GPU and one for gangs.
* Deadlines: uniform slack, as in ElasticFlow (Gu et al., ASPLOS 2023).
* Arrivals: Poisson, or in bursts, because the coefficient of variation of the gaps in the Philly
  trace is 2.7 times that of a Poisson process.

Assumed, not measured: CPU rates, the mix of kinds, sizes of data and memory, and the times of
inference, preprocessing and deployment. Every number comes from `Generator.random` and plain
arithmetic on literal tables, so a set of instances is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from bench.errors import UserError
from bench.instance import Instance
from bench.workload import Agent, AgentType, Task, Workload, interpolate
from datasets._random import AgentSpec, DrawnInstances, agents_of, instance_generator

WEIGHTS = {1: 0.7, 2: 0.2, 4: 0.1}  # weight of a task -> its fraction of the tasks
Value = TypeVar("Value")

TYPES = (  # name, bandwidth in MB/s
    AgentType("cpu", 1250.0, accelerated=False),
    AgentType("k80", 625.0),
    AgentType("p100", 1250.0),
    AgentType("v100", 2500.0),
    AgentType("a100", 5000.0),
)
# model -> agent type -> throughput relative to the V100; a missing type is not eligible
RATE = {
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
MODELS = {  # kind of task -> its models
    "train": ("resnet18", "resnet50", "transformer", "lm", "cyclegan", "a3c", "recommendation"),
    "inference": ("serve_vision", "serve_text"),
    "preprocess": ("etl",),
    "deploy": ("rollout",),
}
KIND_SHARE = {  # fraction of the tasks
    "train": 0.60,
    "inference": 0.15,
    "preprocess": 0.15,
    "deploy": 0.10,
}
GPU_SHARE = {1: 0.70, 2: 0.10, 4: 0.15, 8: 0.05}  # GPUs of a training task -> fraction
SPEEDUP = {1: 1.0, 2: 1.75, 4: 2.7, 8: 5.4}  # GPUs -> speedup over one GPU
# Table of quantiles: quantile -> seconds that the task takes on the reference with all its GPUs.
SECONDS: dict[str, dict[float, float]] = {
    "train": {
        0.0: 19, 0.05: 55, 0.1: 67, 0.2: 204, 0.3: 725, 0.4: 1234, 0.5: 1684, 0.6: 2201, 0.7: 2686,
        0.8: 4109, 0.9: 10709, 0.95: 27223, 0.98: 116345, 0.99: 211503, 1.0: 1047865,
    },
    "gang": {  # training on several GPUs
        0.0: 8, 0.1: 15, 0.2: 21, 0.3: 146, 0.4: 686, 0.5: 8418, 0.6: 41670, 0.7: 89241,
        0.8: 157723, 0.9: 253793, 0.95: 440810, 1.0: 1146366,
    },
    "inference": {0.0: 20, 0.5: 180, 0.9: 900, 1.0: 1800},
    "preprocess": {0.0: 60, 0.5: 900, 0.9: 3600, 1.0: 7200},
    "deploy": {0.0: 10, 0.5: 60, 1.0: 300},
}  # fmt: skip
DATA = {  # kind -> quantile -> MB
    "train": {0.0: 200, 0.5: 10_000, 0.9: 150_000, 1.0: 400_000},
    "inference": {0.0: 50, 0.5: 1_000, 1.0: 20_000},
    "preprocess": {0.0: 5_000, 0.5: 60_000, 1.0: 500_000},
    "deploy": {0.0: 500, 0.5: 15_000, 1.0: 150_000},
}
# quantile -> MiB of host memory per GPU, or per task where the task uses no GPU
MEMORY = {0.0: 4_096, 0.5: 16_384, 0.9: 57_344, 1.0: 114_688}
DRAWS = 14  # uniform random numbers that are drawn for each task


class Cluster(DrawnInstances):
    """Instances on one cluster; same seed, split and index: same instance, on every machine.

    Parameters
    ----------
    agents
        For each agent a mapping of type (a name in `TYPES`), gpus, cpus, memory (MiB) and
        optionally count.
    tasks
        Smallest and largest number of tasks of an instance.
    load
        Sum of the GPU seconds of the tasks, each on its fastest type, divided by the number of
        GPUs and by the time over which the tasks arrive.
    tick_seconds
        Length of a tick.
    arrivals
        `poisson`, `bursty` or `mixed` (one of the two at random for each instance).
    longest
        Largest training time in seconds: longer times are cut off (conditional distribution).
    tenants
        Fraction of the tasks that each tenant submits.
    quota_share
        Fraction of every resource that each tenant may hold.
    slack
        Smallest and largest s of due = release + s * shortest time; s is uniform.
    weights
        Weight of a task -> its fraction of the tasks.
    estimate_error
        e: estimates lie between p / (1 + e) and p * (1 + e).
    outages
        Number of announced maintenance windows per instance, each on another agent.
    outage_seconds
        Length of each of them.
    train, validation, test, seed, hashes
        See `DrawnInstances`.

    Raises
    ------
    UserError
        When a parameter has no valid meaning; the message names it.
    """

    def __init__(
        self,
        name: str,
        agents: Sequence[AgentSpec],
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
        train: int | Literal["endless"] = 1024,
        validation: int = 32,
        test: int = 16,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, train, validation, test, seed, hashes)
        self.agents = agents_of(agents)
        used = {agent.type for agent in self.agents}
        self.types = [agent_type for agent_type in TYPES if agent_type.name in used]
        self.tasks = tuple(tasks)
        self.load = load
        self.tick_seconds = tick_seconds
        self.arrivals = arrivals
        self.longest = longest
        self.slack = tuple(slack)
        self.tenants = dict(enumerate(tenants))
        self.quota_share = quota_share
        self.weights = {
            int(weight): share
            for weight, share in (WEIGHTS if weights is None else weights).items()
        }
        self.estimate_error = estimate_error
        self.outages = outages
        self.outage_seconds = outage_seconds
        self._check(used)
        self._accelerated = {t.name for t in self.types if t.accelerated}
        self._most_gpus = max(agent.gpus for agent in self.agents)
        self._largest: dict[tuple[str, int], Agent] = {}
        self._capacities = {  # type -> (gpus, cpus, memory) of its agents
            t.name: sorted({agent[1:] for agent in self.agents if agent.type == t.name})
            for t in self.types
        }
        # The quantile at which each table of times reaches `longest`.
        self._cut_quantile = {
            name: interpolate({seconds: q for q, seconds in table.items()}, longest)
            for name, table in SECONDS.items()
        }

    def draw(self, split: str, i: int) -> Instance:
        """Draw instance i of the split."""
        return self.workload(split, i).compile()

    def workload(self, split: str, i: int) -> Workload:
        """Return instance i of `split` in physical units."""
        rng = instance_generator(split, i, self.seed)
        low, high = self.tasks
        n = low + int(rng.random() * (high - low + 1))
        drawn = [self._task(row) for row in rng.random((n, DRAWS)).tolist()]
        unscheduled = Workload(
            drawn, self.agents, self.types, RATE, SPEEDUP, tick_seconds=self.tick_seconds
        )
        fastest = [self._fastest(unscheduled, task) for task in drawn]
        span = (  # seconds over which the tasks arrive
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
            tasks=tasks,
            agents=self.agents,
            types=self.types,
            rate=RATE,
            speedup=SPEEDUP,
            quota=self._quota(tasks),
            outages=self._outages(rng, span),
            tick_seconds=self.tick_seconds,
            name=f"{self.name}-{split}-{i}",
        )

    # -- one task ----------------------------------------------------------------------------

    def _task(self, u: Sequence[float]) -> Task:
        """Return a task made of DRAWS uniform numbers; `due` holds its slack for the moment."""
        kind = pick(KIND_SHARE, u[0])
        model = MODELS[kind][int(u[1] * len(MODELS[kind]))]
        gpus = {"train": min(pick(GPU_SHARE, u[2]), self._most_gpus), "preprocess": 0}.get(kind, 1)
        table = "gang" if gpus > 1 else kind
        seconds = interpolate(SECONDS[table], u[3] * self._cut_quantile[table])
        largest = self._largest_agent(model, gpus)
        cpus = (4 + 4 * int(u[5] * 3)) if gpus == 0 else gpus * (2 + int(u[5] * 4))
        error = 1.0 + self.estimate_error * u[10]
        return Task(
            model=model,
            compute=round(seconds * interpolate(SPEEDUP, max(gpus, 1)), 3),
            data=round(interpolate(DATA[kind], u[4]), 3),
            gpus=gpus,
            cpus=min(cpus, largest.cpus),
            memory=min(int(interpolate(MEMORY, u[6])) * max(gpus, 1), largest.memory),
            kind=kind,
            due=self.slack[0] + (self.slack[1] - self.slack[0]) * u[9],
            weight=pick(self.weights, u[7]),
            tenant=pick(self.tenants, u[8]),
            estimate_ratio=round(error if u[11] < 0.5 else 1.0 / error, 6),
        )

    def _largest_agent(self, model: str, gpus: int) -> Agent:
        """Return the agent with the most memory that can run `gpus` GPUs of `model`.

        Demands are limited to what it has, so that every task can run somewhere.
        """
        if (model, gpus) not in self._largest:
            able = [
                a
                for a in self.agents
                if a.type in RATE[model] and (a.gpus >= gpus or a.type not in self._accelerated)
            ]
            self._largest[model, gpus] = max(able, key=lambda agent: (agent.memory, agent.cpus))
        return self._largest[model, gpus]

    def _fastest(self, workload: Workload, task: Task) -> float:
        """Return the seconds that `task` takes on the fastest type of which an agent fits it."""
        times = [workload.seconds(task, t) for t in self.types if self._fits(task, t)]
        return min(p for p in times if p is not None)

    def _fits(self, task: Task, agent_type: AgentType) -> bool:
        gpus, cpus, memory = task.gpus if agent_type.accelerated else 0, task.cpus, task.memory
        for capacity in self._capacities[agent_type.name]:
            if gpus <= capacity[0] and cpus <= capacity[1] and memory <= capacity[2]:
                return True
        return False

    # -- the instance as a whole ---------------------------------------------------------------

    def _arrivals(self, rng: np.random.Generator, n: int) -> list[float]:
        """Return n ascending arrival times in [0, 1), the first of which is 0.

        They are sorted uniform numbers (a Poisson process given n), or come in bursts of about
        five.
        """
        coin = rng.random()
        u = rng.random((n, 2)).tolist()
        if self.arrivals == "bursty" or (self.arrivals == "mixed" and coin < 0.5):
            centres = rng.random(max(2, n // 5)).tolist()
            at = sorted(0.98 * centres[int(a * len(centres))] + 0.02 * b for a, b in u)
        else:
            at = sorted(a for a, _ in u)
        return [a - at[0] for a in at]

    def _quota(self, tasks: Sequence[Task]) -> list[list[int]]:
        """Return the quota of each tenant, (U, 3): its share, at least the largest demand."""
        fields = ("gpus", "cpus", "memory")
        total = [sum(getattr(agent, field) for agent in self.agents) for field in fields]
        largest = [max(getattr(task, field) for task in tasks) for field in fields]
        return [
            [max(math.ceil(self.quota_share * a), b) for a, b in zip(total, largest, strict=True)]
            for _ in self.tenants
        ]

    def _outages(self, rng: np.random.Generator, span: float) -> list[tuple[int, float, float]]:
        """Return (agent, start, end) in seconds of each outage, on agents drawn at random."""
        draws = rng.random((len(self.agents), 2)).tolist()
        order = sorted(range(len(draws)), key=lambda agent: draws[agent][0])[: self.outages]
        starts = [round(draws[a][1] * span, 3) for a in order]
        return [
            (a, start, start + self.outage_seconds) for a, start in zip(order, starts, strict=True)
        ]

    def _gpus(self) -> int:
        return sum(agent.gpus for agent in self.agents)

    def _check(self, used: set[str]) -> None:
        known = [t.name for t in TYPES]
        unknown = sorted(used - set(known))
        positive = {
            name: getattr(self, name)
            for name in ("load", "tick_seconds", "longest", "outage_seconds")
        }
        rules: dict[str, bool] = {
            f"agents: unknown type {unknown}; use {', '.join(known)}": not unknown,
            "agents: at least one needs GPUs; add an agent with gpus > 0": self._gpus() > 0,
            "agents: a type `cpu` has no GPUs; set gpus: 0": all(
                a.gpus == 0 for a in self.agents if a.type == "cpu"
            ),
            f"arrivals: value {self.arrivals!r}: must be poisson, bursty or mixed": (
                self.arrivals in ("poisson", "bursty", "mixed")
            ),
            f"tasks: value {list(self.tasks)}: must be the smallest and the largest number of "
            "tasks; give [SMALLEST, LARGEST] with 1 <= SMALLEST <= LARGEST": (
                len(self.tasks) == 2 and 1 <= self.tasks[0] <= self.tasks[1]
            ),
            **{
                f"{name}: value {value}: must be positive": value > 0
                for name, value in positive.items()
            },
            f"tenants: value {list(self.tenants.values())}: must be the shares of the tenants; "
            "give at least one number, none negative, not all 0": _are_shares(self.tenants),
            f"weights: value {self.weights}: must be weight -> share; give at least one positive "
            "weight and shares that are not negative, not all 0": (
                _are_shares(self.weights) and min(self.weights) > 0
            ),
            f"quota_share: value {self.quota_share}: must lie between 0 and 1": (
                0 <= self.quota_share <= 1
            ),
            f"estimate_error: value {self.estimate_error}: must be at least 0": (
                self.estimate_error >= 0
            ),
            f"outages: value {self.outages}: must lie between 0 and the number of agents, "
            f"{len(self.agents)}": 0 <= self.outages <= len(self.agents),
            f"slack: value {list(self.slack)}: must be the smallest and the largest slack; "
            "give [SMALLEST, LARGEST] with 1 <= SMALLEST <= LARGEST": (
                len(self.slack) == 2 and 1 <= self.slack[0] <= self.slack[1]
            ),
        }
        for rule, holds in rules.items():
            if not holds:
                raise UserError(f"dataset.{rule}")


def _are_shares(shares: Mapping[int, float]) -> bool:
    return bool(shares) and min(shares.values()) >= 0 and sum(shares.values()) > 0


def pick(shares: Mapping[Value, float], u: float) -> Value:
    """Return the value whose interval contains the uniform number `u` of [0, 1).

    The intervals are as long as the shares, relative to their sum, and lie in the order of
    `shares`; the last value also takes what rounding leaves.
    """
    remaining = u * sum(shares.values())
    for value, share in shares.items():
        remaining -= share
        if remaining < 0:
            return value
    return value
