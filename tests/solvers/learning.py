"""What tests of learners share: small instances, a dataset, a log, an exact enumeration, and a task that has to be learnt."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Budget
from bench.instance import Instance, Outage
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import View, from_simulator
from solvers.networks.features import features
from solvers.networks.pairwise import PairNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.rl.rollouts import play_greedily
from solvers.rl.training import NetworkLearner

CPU = torch.device("cpu")


def random_instance(rng: np.random.Generator, n: int = 6, m: int = 3) -> Instance:
    """n tasks on m agents of two types, with everything that needs no estimate."""
    return Instance(
        rng.integers(1, 10, (n, 2)), rng.integers(0, 3, (n, 2, 2)), np.full((m, 2), 4), rng.integers(0, 2, m),
        release=rng.integers(0, 8, n), weight=rng.integers(1, 4, n), due=rng.integers(5, 30, n), kind=rng.integers(0, 4, n),
    )  # fmt: skip


def three_tasks(seed: int) -> Instance:
    """Three tasks on two agents that hold one each, the last arriving later: in commit mode three decisions, whichever."""
    rng = np.random.default_rng(seed)
    return Instance(
        rng.integers(1, 9, (3, 2)),
        np.ones((3, 2, 1)),
        [[1], [1]],
        [0, 1],
        release=[0, 0, 2],
        weight=rng.integers(1, 6, 3),
    )


def rough_fields(rng: np.random.Generator, n: int, release: Any) -> dict[str, Any]:
    """Fields of n tasks on 2 types with 2 resources, 2 tenants and wrong estimates; some tasks cannot run on type 1."""
    duration = rng.integers(1, 15, (n, 2))
    duration[rng.random(n) < 0.2, 1] = -1
    return {
        "duration": duration,
        "estimate": np.where(
            duration == -1, -1, np.maximum(1, duration + rng.integers(-4, 5, (n, 2)))
        ),
        "demand": np.repeat(rng.integers(0, 4, (n, 1, 2)), 2, axis=1),
        "release": release,
        "weight": rng.integers(0, 5, n),
        "due": release + rng.integers(0, 30, n),
        "tenant": rng.integers(0, 2, n),
        "kind": rng.integers(0, 4, n),
    }


def rough_instance(fields: dict[str, Any]) -> Instance:
    """These tasks on three agents with outages, one of them not announced, and quotas."""
    outages = (Outage(0, 9, 12), Outage(1, 15, 19, announced=False), Outage(2, 30, 33))
    return Instance(
        **fields, capacity=[[4, 6], [3, 3], [5, 4]], agent_type=[0, 1, 0], quota=[[6, 7], [7, 6]], outages=outages
    )  # fmt: skip


def rough(rng: np.random.Generator, n: int = 10) -> Instance:
    """Everything at once: quotas, outages, wrong estimates, arrivals."""
    return rough_instance(rough_fields(rng, n, np.sort(rng.integers(0, 30, n))))


def without_clock(rng: np.random.Generator) -> Instance:
    """`budget` sharing in which some plays end with a task that fits nowhere."""
    return Instance(
        rng.integers(1, 10, (6, 2)),
        rng.integers(1, 4, (6, 2, 1)),
        [[5], [7]],
        [0, 1],
        sharing="budget",
    )


class Fixed:
    """n instances of each split, drawn by `make`."""

    name = "fixed"

    def __init__(self, make: Callable[[np.random.Generator], Instance], n: int) -> None:
        self.splits = {
            split: [make(np.random.default_rng([k, i])) for i in range(n)]
            for k, split in enumerate(("train", "validation", "test"))
        }

    def instances(self, split: str) -> Iterator[Instance]:
        return iter(self.splits[split])


class Notes:
    """A log that keeps what it hears; `then(self)` is called after each iteration, and may raise as a kill would."""

    def __init__(self, folder: Path, then: Callable[["Notes"], None] = lambda notes: None) -> None:
        self.folder, self.then = folder, then
        self.heard: list[tuple[int, dict[str, float]]] = []
        self.facts: dict[str, Any] = {}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.heard.append((step, dict(values)))

    def summary(self, facts: Mapping[str, Any]) -> None:
        self.facts |= facts

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.then(self)


def stop_after(count: int) -> Callable[[Notes], None]:
    """Raises, as a kill would, after so many iterations and before that iteration is saved."""

    def check(notes: Notes) -> None:
        if len(notes.heard) == count:
            raise KeyboardInterrupt

    return check


def small(kind: type[NetworkLearner], **changes: Any) -> Any:
    """A learner of this kind for small instances, which saves after every iteration."""
    common = {"device": "cpu", "envs": 16, "width": 8, "validate_every": 2, "save_seconds": 0.0}
    return kind(**{**common, **changes})


def fit(
    learner: NetworkLearner,
    data: Any,
    notes: Notes,
    decisions: int,
    setting: Setting | None = None,
    seed: int = 0,
) -> Any:
    """The policy that the learner makes of `data`."""
    return learner.fit(
        data,
        setting or Setting(),
        Budget(decisions=decisions, threads=1),
        np.random.default_rng(seed),
        notes,
    )


def same_weights(one: NetworkPolicy, other: NetworkPolicy) -> bool:
    """Every weight is equal, bit by bit."""
    states = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# -- every way an episode can go ---------------------------------------------------------------------------------


def head(view: View, count: int) -> View:
    """The first `count` decisions."""
    return View(*(column[:count] for column in view))


def outcomes(
    instance: Instance, setting: Setting, network: PairNetwork, most: int = 4000
) -> tuple[Tensor, Tensor]:
    """Probability under the network, with its gradient, and return of each of the L action sequences: (L,), (L,) float64."""
    simulator = TensorSimulator([instance], setting, n_envs=most)
    chance, total = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    ended: list[tuple[Tensor, Tensor]] = []
    while len(chance):
        logits, _ = network(features(head(from_simulator(simulator), len(chance))))
        row, action = torch.isfinite(logits).nonzero().T
        assert len(row) <= most, "the tree is too wide"
        simulator.copy(row, torch.arange(len(row)))
        actions = torch.full((most,), -1)
        actions[: len(row)] = action
        reward = simulator.step(actions)[: len(row)]
        chance = chance[row] * logits.double().softmax(dim=1)[row, action]
        total, over = total[row] + reward, simulator.terminated[: len(row)].clone()
        ended.append((chance[over], total[over]))
        simulator.copy((~over).nonzero()[:, 0], torch.arange(int((~over).sum())))
        chance, total = chance[~over], total[~over]
    chances, totals = zip(*ended, strict=True)
    return torch.cat(chances), torch.cat(totals)


def exact_gradient(instances: list[Instance], setting: Setting, network: PairNetwork) -> Tensor:
    """Gradient by autograd of the expected return, the mean over instances, with regard to all weights in one row."""
    value = torch.zeros((), dtype=torch.float64)
    for instance in instances:
        chance, total = outcomes(instance, setting, network)
        value = value + (chance * total).sum() / len(instances)
    network.zero_grad()
    value.backward()
    return flat_gradient(network)


def flat_gradient(network: PairNetwork) -> Tensor:
    """All gradients in one row, float64; they are cleared."""
    rows = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in network.parameters()
    ]
    network.zero_grad()
    return torch.cat(rows).double()


def decided_network(width: int = 8, seed: int = 0) -> PairNetwork:
    """A network with clear preferences: a fresh one's policy is nearly uniform, which hides mistakes."""
    torch.manual_seed(seed)
    network = PairNetwork(width)
    for part in (network.score, network.wait):
        part[-1].weight.data.mul_(100.0)
    return network


def errors(estimates: Tensor, exact: Tensor) -> tuple[float, float, float]:
    """Of E independent estimates (E, P) of a gradient (P,): the cosine of their mean with the exact one, the relative error,
    and the squared error over what the standard errors let expect, which is about 1 where there is no bias."""
    mean = estimates.mean(dim=0)
    expected = float((estimates.var(dim=0) / len(estimates)).sum())
    gap = float((mean - exact).square().sum())
    cosine = float(mean @ exact / (mean.norm() * exact.norm()))
    return cosine, gap**0.5 / float(exact.norm()), gap / expected


def agrees(estimates: Tensor, exact: Tensor) -> None:
    """The mean of the estimates is the exact gradient, as far as their scatter lets one tell, and that is closely."""
    cosine, relative, excess = errors(estimates, exact)
    assert cosine > 0.98
    assert relative < 0.2
    assert excess < 3.0


# -- a task to learn ---------------------------------------------------------------------------------------------


PATIENT = Setting(mode="commit")


def one_agent_for_two(rng: np.random.Generator) -> Instance:
    """Two tasks that both belong on one agent, though the first could run elsewhere, three times as long.

    Which agent that is and whose turn comes first are drawn: the second task is either short and heavy, or long and light.
    """
    best, d = int(rng.integers(2)), int(rng.integers(4, 7))
    heavy = rng.random() < 0.5
    duration = np.array([[3 * d, 3 * d], [-1, -1]])
    duration[:, best] = d, 2 if heavy else 9
    return Instance(duration, np.ones((2, 2, 1)), [[1], [1]], [0, 1], weight=[1, 8 if heavy else 1])


TO_LEARN = Fixed(one_agent_for_two, 24)


@cache
def _best(split: str) -> Tensor:
    """(I,) the highest return of each instance."""
    network = PairNetwork(8)  # any: all sequences are tried
    return torch.stack(
        [outcomes(i, PATIENT, network, 16)[1].max() for i in TO_LEARN.instances(split)]
    )


def regret(network: PairNetwork, split: str = "test") -> float:
    """By how much the greedy policy's mean return misses the best one there is."""
    instances = list(TO_LEARN.instances(split))
    return float(
        (_best(split) - play_greedily(network, TensorSimulator(instances, PATIENT))).mean()
    )


@cache
def best_of_untrained(seeds: int = 5) -> float:
    """The least regret of so many networks that have learnt nothing."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(regret(PairNetwork(16)))
    return min(found)
