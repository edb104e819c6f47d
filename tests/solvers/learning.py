"""What tests of learners share: instances, a dataset, a logger, exact gradients, a problem."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contracts import Budget, Dataset
from bench.instance import Instance, Outage
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import BatchView, from_simulator
from solvers.a2c import A2C
from solvers.networks.features import featurize
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy
from solvers.ppo import PPO
from solvers.reinforce import Reinforce
from solvers.rl.rollouts import play_greedily
from solvers.rl.trainer import Trainer
from solvers.rl.training import NetworkLearner
from solvers.self_labelling import SelfLabelling

CPU = torch.device("cpu")


def random_instance(rng: np.random.Generator, n: int = 6, m: int = 3) -> Instance:
    """Return n tasks on m agents of two types, with all fields that need no estimate."""
    return Instance(
        rng.integers(1, 10, (n, 2)),
        rng.integers(0, 3, (n, 2, 2)),
        np.full((m, 2), 4),
        rng.integers(0, 2, m),
        release=rng.integers(0, 8, n),
        weight=rng.integers(1, 4, n),
        due=rng.integers(5, 30, n),
        kind=rng.integers(0, 4, n),
    )


def three_tasks(seed: int) -> Instance:
    """Return three tasks on two agents that hold one each; the last task arrives later.

    In commit mode every episode has three decisions.
    """
    rng = np.random.default_rng(seed)
    return Instance(
        rng.integers(1, 9, (3, 2)),
        np.ones((3, 2, 1)),
        [[1], [1]],
        [0, 1],
        release=[0, 0, 2],
        weight=rng.integers(1, 6, 3),
    )


def complex_fields(rng: np.random.Generator, n: int, release: Any) -> dict[str, Any]:
    """Return fields of n tasks with 2 types, 2 resources, 2 tenants and wrong estimates.

    Some tasks are not eligible on type 1.
    """
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


def with_outages(fields: dict[str, Any]) -> Instance:
    """Return these tasks on three agents with quotas and outages, one of them not announced."""
    outages = (Outage(0, 9, 12), Outage(1, 15, 19, announced=False), Outage(2, 30, 33))
    return Instance(
        **fields,
        capacity=[[4, 6], [3, 3], [5, 4]],
        agent_type=[0, 1, 0],
        quota=[[6, 7], [7, 6]],
        outages=outages,
    )


def complex_instance(rng: np.random.Generator, n: int = 10) -> Instance:
    """Return an instance with quotas, outages, wrong estimates and arrivals."""
    return with_outages(complex_fields(rng, n, np.sort(rng.integers(0, 30, n))))


def budget_instance(rng: np.random.Generator) -> Instance:
    """Return an instance of `budget` sharing in which some episodes are dead ends."""
    return Instance(
        rng.integers(1, 10, (6, 2)),
        rng.integers(1, 4, (6, 2, 1)),
        [[5], [7]],
        [0, 1],
        sharing="budget",
    )


class FixedDataset(Dataset):
    """n instances of each split, drawn by `make`."""

    name = "fixed"

    def __init__(self, make: Callable[[np.random.Generator], Instance], n: int) -> None:
        self._make = make
        self._n = n

    @cached_property
    def splits(self) -> dict[str, list[Instance]]:
        """The instances of each split, drawn at the first use."""
        return {
            split: [self._make(np.random.default_rng([k, i])) for i in range(self._n)]
            for k, split in enumerate(("train", "validation", "test"))
        }

    def instances(self, split: str) -> Iterator[Instance]:
        return iter(self.splits[split])


class MemoryLogger:
    """A logger that keeps what is logged.

    `after_iteration(self)` is called after each iteration; it may raise, as an interrupt would.
    """

    def __init__(
        self, folder: Path, after_iteration: Callable[["MemoryLogger"], None] = lambda logger: None
    ) -> None:
        self.folder = folder
        self.after_iteration = after_iteration
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.facts: dict[str, Any] = {}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, dict(values)))

    def summary(self, facts: Mapping[str, Any]) -> None:
        self.facts |= facts

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.after_iteration(self)


def interrupt_after(count: int) -> Callable[[MemoryLogger], None]:
    """Return a function that interrupts after `count` iterations, before the last one is saved."""

    def check(logger: MemoryLogger) -> None:
        if len(logger.logged) == count:
            raise KeyboardInterrupt

    return check


def small_learner(kind: type[NetworkLearner], **changes: Any) -> Any:
    """Return a learner of this class for small instances, which saves after every iteration."""
    common = {
        "device": "cpu",
        "num_envs": 16,
        "width": 8,
        "validate_every": 2,
        "save_seconds": 0.0,
    }
    return kind(**{**common, **changes})


ONLINE = Setting(track="online", observe="arrived")
ON_POLICY: Mapping[str, dict[str, Any]] = {  # name -> class and settings
    "ppo": {"kind": PPO, "steps": 8, "minibatch": 64},
    "ppo_group": {"kind": PPO, "advantage": "group", "group": 4, "shaped": False, "minibatch": 64},
    "ppo_critic": {"kind": PPO, "critic": "clairvoyant", "steps": 8, "minibatch": 64},
    "a2c": {"kind": A2C, "steps": 4},
    "reinforce": {"kind": Reinforce, "group": 4},
    "self_labelling": {"kind": SelfLabelling, "group": 4, "replays": 8, "updates": 2},
}


ONE_BY_DEFAULT = [  # of tests that take seconds with each
    name if name == "ppo" else pytest.param(name, marks=pytest.mark.slow) for name in ON_POLICY
]


def on_policy_learner(name: str, **changes: Any) -> Any:
    """Return one of `ON_POLICY`, changed, for small instances."""
    return small_learner(**{**ON_POLICY[name], **changes})


def setting_of(learner: Any) -> Setting:
    """Return the setting that a learner is for: a clairvoyant critic needs a hidden future."""
    return ONLINE if getattr(learner, "critic", "shared") == "clairvoyant" else Setting()


def fit(
    learner: NetworkLearner,
    data: Any,
    logger: MemoryLogger,
    decisions: int,
    setting: Setting | None = None,
    seed: int = 0,
) -> Any:
    """Return the policy that the learner makes of `data`, without a setting in its track."""
    return learner.fit(
        data,
        setting or setting_of(learner),
        Budget(decisions=decisions, threads=1),
        np.random.default_rng(seed),
        logger,
    )


def same_weights(one: NetworkPolicy, other: NetworkPolicy) -> bool:
    """Whether all weights are equal, bit by bit."""
    states = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# -- exact gradients, by enumerating all episodes ------------------------------------------------


def head(view: BatchView, count: int) -> BatchView:
    """Return the first `count` decisions."""
    return BatchView(*(column[:count] for column in view))


def outcomes(
    instance: Instance, setting: Setting, network: PairwiseNetwork, most: int = 4000
) -> tuple[Tensor, Tensor]:
    """Enumerate all L action sequences of an instance; fail where `most` run at once.

    Returns
    -------
    tuple
        (L,) float64 probability of each under the network, with its gradient, and (L,) its return.
    """
    simulator = TensorSimulator([instance], setting, num_envs=most)
    chance, total = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    ended: list[tuple[Tensor, Tensor]] = []
    while len(chance):
        logits, _ = network(featurize(head(from_simulator(simulator), len(chance))))
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


def exact_gradient(instances: list[Instance], setting: Setting, network: PairwiseNetwork) -> Tensor:
    """Return the gradient (P,) of the expected return, the mean over instances, by autograd."""
    value = torch.zeros((), dtype=torch.float64)
    for instance in instances:
        chance, total = outcomes(instance, setting, network)
        value = value + (chance * total).sum() / len(instances)
    network.zero_grad()
    value.backward()
    return flat_gradient(network)


def flat_gradient(network: PairwiseNetwork) -> Tensor:
    """Return all gradients in one row (P,) float64, and clear them."""
    rows = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in network.parameters()
    ]
    network.zero_grad()
    return torch.cat(rows).double()


def take_gradient(trainer: Trainer) -> Tensor:
    """Return the gradient (P,) float64 of a trainer, and clear it."""
    gradient = trainer.weights.flat.grad.double()
    trainer.weights.flat.grad.zero_()
    return gradient


def confident_network(width: int = 8, seed: int = 0) -> PairwiseNetwork:
    """Return a network with clear preferences.

    The policy of a new network is nearly uniform, which hides mistakes.
    """
    torch.manual_seed(seed)
    network = PairwiseNetwork(width)
    for part in (network.score, network.wait):
        part[-1].weight.data.mul_(100.0)
    return network


def gradient_errors(estimates: Tensor, exact: Tensor) -> tuple[float, float, float]:
    """Compare the mean of E independent estimates (E, P) of a gradient with the exact one (P,).

    Returns
    -------
    tuple
        Their cosine, the relative error, and the squared error over the one that the standard
        errors predict, which is about 1 where there is no bias.
    """
    mean = estimates.mean(dim=0)
    expected = float((estimates.var(dim=0) / len(estimates)).sum())
    gap = float((mean - exact).square().sum())
    cosine = float(mean @ exact / (mean.norm() * exact.norm()))
    return cosine, gap**0.5 / float(exact.norm()), gap / expected


def assert_unbiased(estimates: Tensor, exact: Tensor) -> None:
    """Assert that the mean of the estimates is the exact gradient, up to the sampling error."""
    cosine, relative, excess = gradient_errors(estimates, exact)
    assert cosine > 0.98
    assert relative < 0.2
    assert excess < 3.0


# -- a problem to learn --------------------------------------------------------------------------


COMMIT = Setting(mode="commit")


def two_tasks_one_good_agent(rng: np.random.Generator) -> Instance:
    """Return two tasks that both belong on one agent, though the first is eligible elsewhere.

    There it takes three times as long. Which agent that is and which task comes first are drawn:
    the second task is either short and heavy, or long and light.
    """
    best, d = int(rng.integers(2)), int(rng.integers(4, 7))
    heavy = rng.random() < 0.5
    duration = np.array([[3 * d, 3 * d], [-1, -1]])
    duration[:, best] = d, 2 if heavy else 9
    return Instance(duration, np.ones((2, 2, 1)), [[1], [1]], [0, 1], weight=[1, 8 if heavy else 1])


LEARNABLE = FixedDataset(two_tasks_one_good_agent, 24)


@cache
def _best_returns(split: str) -> Tensor:
    """Return the highest return (I,) of each instance."""
    network = PairwiseNetwork(8)  # any network: all sequences are tried
    return torch.stack(
        [outcomes(i, COMMIT, network, 16)[1].max() for i in LEARNABLE.instances(split)]
    )


def regret(network: PairwiseNetwork, split: str = "test") -> float:
    """Return the difference between the best mean return and that of the greedy policy."""
    instances = list(LEARNABLE.instances(split))
    returns = play_greedily(network, TensorSimulator(instances, COMMIT))
    return float((_best_returns(split) - returns).mean())


@cache
def lowest_untrained_regret(seeds: int = 5) -> float:
    """Return the lowest regret of some networks without any training."""
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(regret(PairwiseNetwork(16)))
    return min(found)
