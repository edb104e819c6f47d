"""What offline learners share: the log, training epoch by epoch, choosing a policy without the simulator, the account of it.

A learner adds its algorithm and says which network decides (`solvers.offline.learners`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.analysis import ope_metrics as dope
from bench.contracts import Budget, Dataset, Log, Logs, Policy
from bench.errors import UserError
from bench.instance import Instance
from bench.logs.episodes import Episodes
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.networks.pairwise import Network
from solvers.networks.policy import NetworkPolicy, choose_device, load_policy, save_atomically
from solvers.offline import evaluation
from solvers.offline.feed import Feed
from solvers.rl.rollouts import play_greedily
from solvers.rl.settings import ABOVE_0, AT_LEAST_0, SHARE, Range, check_settings

SELECTIONS = ("fqe", "oracle", "last")
RANGES: dict[str, Range] = {
    **dict.fromkeys(("lr", "reward_scale", "inverse_temperature"), ABOVE_0),
    **dict.fromkeys(("gamma", "expectile", "target_return_quantile"), SHARE),
    "held_out": ("must lie between 0 and 1, both excluded", lambda x: 0 < x < 1),
    "alpha": AT_LEAST_0,
    "flexibility": ("must be above 0 and at most 1", lambda x: 0 < x <= 1),
}


@dataclass(kw_only=True)
class OfflineLearner(ABC):
    """Settings of every offline learner; `conf/learner/offline.yaml` says what each one means.

    A run sees what the log shows: `observe` is declared where that is less than all. With `checkpoint`, `logs` may be None.

    Raises:
        UserError: for a setting that means nothing or a log that cannot be learnt from.
        FloatingPointError: where a network or an estimate is no longer finite: a failed run, whose row says so.
    """

    logs: Logs
    device: str = "auto"
    checkpoint: str | None = None
    episodes: int | None = None
    held_out: float = 0.15
    steps: int = 2000
    batch: int = 128
    lr: float = 1e-3
    gamma: float = 1.0
    reward_scale: float | None = None
    width: int = 32
    rounds: int = 2
    window: int = 64
    candidates: int = 5
    selection: str = "fqe"
    fqe_steps: int = 1000
    threads: int = 1

    def __post_init__(self) -> None:
        choose_device(self.device)
        check_settings(self, "solver", RANGES)
        if self.selection not in SELECTIONS:
            raise UserError(
                f"solver.selection: {self.selection!r} must be one of {', '.join(SELECTIONS)}"
            )
        if self.logs is not None and self.logs.setting.observe == "arrived":
            self.observe = "arrived"
        if self.steps % (2 * self.candidates):
            raise UserError(
                f"solver.steps: {self.steps} must be a multiple of twice solver.candidates={self.candidates}"
            )

    # -- what a learner defines ------------------------------------------------------------------------------------

    @abstractmethod
    def algorithm(self, feed: Feed) -> Any:
        """A new algorithm of `solvers.offline.d3rlpy_algorithms`."""

    @abstractmethod
    def network(self, algorithm: Any, feed: Feed) -> Network:
        """A copy of the network that decides as the algorithm does now, on the device of the feed."""

    # -- the contract ----------------------------------------------------------------------------------------------

    def fit(
        self, data: Dataset, setting: Setting, budget: Budget, rng: np.random.Generator, log: Log
    ) -> Policy:
        """Train for `steps` on the log and hand back one of `candidates` policies from the second half of the way.

        The simulator has no part in it, but with `selection=oracle`; afterwards it tells the true returns that the estimates
        are compared with. `budget.decisions` is not touched. A killed run continues from `log.folder`, on the CPU to the same
        network. With `checkpoint` nothing is trained.
        """
        torch.set_num_threads(min(self.threads, int(budget.threads)))
        device = choose_device(self.device)
        if self.checkpoint is not None:
            return load_policy(self.checkpoint, device)
        episodes = self.read(setting, log)
        study = Study(self, episodes, rng, device, log)
        study.train()
        network = study.choose(data, setting)
        log.summary(study.account())
        policy = NetworkPolicy(network, self.window, device)
        policy.save(log.folder / "policy.pt")
        return policy

    def read(self, setting: Setting, log: Log) -> Episodes:
        """The log, if it can be learnt from for this setting, and as many of its episodes as are asked for."""
        episodes = self.logs.episodes(lambda done, total, note: log.progress(done, total, note))
        if self.logs.rejected:
            lines = "".join(f"{row},{reason}\n" for row, reason in self.logs.rejected)
            (log.folder / "rejected.csv").write_text(f"row,reason\n{lines}")
            log.summary({"logs/rejected_rows": len(self.logs.rejected)})
        for name in ("objective", "mode", "backfill", "events", "observe"):
            logged = getattr(self.logs.setting, name)
            if logged != getattr(setting, name):
                raise UserError(
                    f"logs: {episodes.name} was played with {name}={logged}, the run has {getattr(setting, name)}; "
                    f"set {name}={logged} or take other logs"
                )
        if episodes.layout.tasks > self.window:
            raise UserError(
                f"solver.window: {self.window}, but {episodes.name} shows up to {episodes.layout.tasks} tasks; "
                f"set solver.window={episodes.layout.tasks}"
            )
        if self.episodes is None:
            return episodes
        if self.episodes > len(episodes.length):
            raise UserError(
                f"solver.episodes: {self.episodes} asked for, {episodes.name} has {len(episodes.length)}; record a larger log"
            )
        return episodes.part(
            np.linspace(0, len(episodes.length) - 1, self.episodes).round().astype(np.int64)
        )


class Study:
    """One training on one log: the parts of the log, the algorithm, its candidates, and what is estimated of them."""

    def __init__(
        self,
        learner: OfflineLearner,
        episodes: Episodes,
        rng: np.random.Generator,
        device: torch.device,
        log: Log,
    ) -> None:
        self.learner, self.log, self.device, self.episodes = learner, log, device, episodes
        torch.manual_seed(int(rng.integers(2**62)))
        self.rng = rng
        kept, held = split(
            episodes, learner.held_out, np.random.default_rng(int(episodes.hash[:16], 16))
        )
        seed, self.fqe_seed = (int(rng.integers(2**62)) for _ in range(2))
        self.held = episodes.part(held)
        self.played = matched(self.held, learner.logs.instances())
        self.feed = Feed(
            episodes.part(kept), device, seed, learner.reward_scale or float(episodes.layout.tasks)
        )
        self.algorithm = learner.algorithm(self.feed)
        self.epochs: list[
            dict[str, torch.Tensor]
        ] = []  # the network after each; those of the second half are candidates
        self.path = log.folder / "training.pt"
        self.cpu_seconds = 0.0
        self._resume()

    def train(self) -> None:
        """To the end; after each epoch the network is kept and the state saved."""
        from solvers.offline import d3rlpy_algorithms as d3

        learner = self.learner
        per_epoch, began = learner.steps // (2 * learner.candidates), time.process_time()
        begun = len(self.epochs) * per_epoch
        for done in d3.fit(self.algorithm, self.feed, learner.steps, per_epoch, self.log, begun):
            state = learner.network(self.algorithm, self.feed).state_dict()
            if not all(torch.isfinite(tensor).all() for tensor in state.values()):
                raise FloatingPointError(
                    f"the network is no longer finite after {done} steps; lower solver.lr"
                )
            self.epochs.append(state)
            self.cpu_seconds += time.process_time() - began
            began = time.process_time()
            self.save()
            self.log.progress(done, learner.steps, "learns from the log")

    def choose(self, data: Dataset, setting: Setting) -> Network:
        """The candidate that the learner's `selection` prefers; what it takes to choose is a cost of learning."""
        learner, began = self.learner, time.process_time()
        self.networks = [self._network(state) for state in self.epochs[-learner.candidates :]]
        self._evaluate()
        if learner.selection != "fqe":  # estimates have no say
            began = time.process_time()
        if learner.selection == "oracle":
            trials = list(data.instances("validation"))
            window = min(learner.window, max(instance.n_tasks for instance in trials))
            simulator = TensorSimulator(trials, setting, window=window, device=self.device)
            value = [float(play_greedily(network, simulator).mean()) for network in self.networks]
        else:
            value = [one.value for one in self.estimates["fqe"]]
            if not np.isfinite(value).all():
                raise FloatingPointError("fitted Q evaluation is not finite; lower solver.lr")
        self.chosen = len(value) - 1 if learner.selection == "last" else int(np.argmax(value))
        self.cpu_seconds += time.process_time() - began
        return self.networks[self.chosen]

    def account(self) -> dict[str, Any]:
        """Facts for the record: of the log, of the training, and each estimate of the chosen policy beside the truth.

        `ope/ESTIMATOR`, `_low`, `_high`: the value and its interval, None where there is none; `_error`: its distance from
        `ope/true`, the mean return on the held-out episodes' instances; `_rank`, `_regret_1`: over the candidates.
        """
        true = self._true()
        returns = self.episodes.returns
        facts: dict[str, Any] = {
            "logs/name": self.episodes.name, "logs/observe": self.learner.logs.setting.observe, "logs/hash": self.episodes.hash,
            "logs/episodes": len(self.episodes.length),
            "logs/decisions": len(self.episodes.action), "logs/return": float(returns.mean()),
            "logs/best_behaviour_return": max(self.episodes.return_by_behaviour.values()),
            "logs/held_out_return": float(self.held.returns.mean()), "learning/rewards": self.feed.rewards_are,
            "learning/cpu_seconds": self.cpu_seconds, "learning/steps": self.learner.steps, "learning/chosen": self.chosen + 1,
            "learning/selection": self.learner.selection, "ope/true": float(true[self.chosen]),
            "ope/true_of_candidates": true.tolist(), "ope/refused": self.refused,
        }  # fmt: skip
        for name, estimates in self.estimates.items():
            values, chosen = np.array([one.value for one in estimates]), estimates[self.chosen]
            interval = {"low": chosen.low, "high": chosen.high}
            facts[f"ope/{name}"] = chosen.value
            facts |= {
                f"ope/{name}_{end}": None if np.isnan(value) else value
                for end, value in interval.items()
            }
            facts[f"ope/{name}_error"] = abs(chosen.value - facts["ope/true"])
            facts[f"ope/{name}_of_candidates"] = values.tolist()
            if len(values) > 1:
                rank = dope.rank_correlation(values, true)
                facts |= {f"ope/{name}_rank": None if np.isnan(rank) else rank}
                facts[f"ope/{name}_regret_1"] = dope.regret(values, true, 1)
        facts["ope/effective_episodes"] = self.effective[self.chosen] if self.effective else None
        return facts

    # -- parts -----------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Every estimate of every candidate, from the held-out episodes alone.

        On those that the policies learnt from, fitted Q evaluation would believe in the same accidents that they believe in.
        """
        learner, held = (
            self.learner,
            Feed(self.held, self.device, self.fqe_seed, self.feed.reward_scale),
        )
        actions = [evaluation.greedy_actions(network, held) for network in self.networks]
        fitted = evaluation.fitted_q(
            held,
            torch.stack(actions, dim=1),
            learner.fqe_steps,
            learner.batch,
            learner.lr,
            learner.width,
            learner.rounds,
        )
        q = evaluation.all_values(fitted, held)
        self.estimates: dict[str, list[evaluation.Estimate]] = {"fqe": []}
        self.effective: list[float] = []
        self.refused: str | None = None
        estimators = {
            "is": evaluation.per_decision,
            "wis": evaluation.weighted,
            "dr": evaluation.doubly_robust,
        }
        try:
            evaluation.needs_probabilities(self.held)
            self.estimates |= {name: [] for name in estimators}
        except UserError as error:
            estimators, self.refused = {}, str(error)
        for i, action in enumerate(actions):
            told = evaluation.told_of(held, q[..., i], action)
            self.estimates["fqe"].append(evaluation.direct(told, self.rng))
            for name, estimator in estimators.items():
                self.estimates[name].append(estimator(told, self.rng))
            if estimators:
                self.effective.append(evaluation.effective_size(told))

    def _true(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(C,) mean return of each candidate on the instances of the held-out episodes, as often as they were played."""
        simulator = TensorSimulator(
            self.played,
            self.learner.logs.setting,
            window=self.held.layout.tasks,
            device=self.device,
        )
        return np.array(
            [float(play_greedily(network, simulator).mean()) for network in self.networks]
        )

    def _network(self, state: Mapping[str, torch.Tensor]) -> Network:
        network = self.learner.network(self.algorithm, self.feed)
        network.load_state_dict(state)
        return network.eval()

    # -- saving ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """All that is needed to go on as if nothing had happened."""
        from solvers.offline import d3rlpy_algorithms as d3

        state = {
            "algorithm": d3.state_of(self.algorithm), "epochs": self.epochs, "cpu_seconds": self.cpu_seconds,
            "generator": self.feed.generator.get_state(), "log": self.episodes.hash,
        }  # fmt: skip
        save_atomically(self.path, state)

    def _resume(self) -> None:
        from solvers.offline import d3rlpy_algorithms as d3

        if not self.path.exists():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["log"] != self.episodes.hash:
            raise UserError(
                f"logs: {self.episodes.name} is not what {self.path} was trained on; rerun=true starts over"
            )
        d3.restore(self.algorithm, state["algorithm"])
        self.feed.generator.set_state(state["generator"])
        self.epochs, self.cpu_seconds = state["epochs"], state["cpu_seconds"]


def split(
    episodes: Episodes, held_out: float, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Episodes to learn from and episodes held out, apart by instance: no instance is on both sides.

    Raises:
        UserError: where one side would be empty.
    """
    names = sorted(set(episodes.instance))
    drawn = rng.permutation(len(names))[: min(max(1, round(held_out * len(names))), len(names) - 1)]
    out = {names[i] for i in drawn}
    sides: tuple[list[int], list[int]] = ([], [])
    for e, name in enumerate(episodes.instance):
        sides[name in out].append(e)
    if not sides[0] or not sides[1]:
        raise UserError(
            f"logs {episodes.name}: episodes on at least 2 instances are needed, some of them to be held out, and here is one; "
            "raise solver.episodes if it is set, an imported log is cut into more by a smaller logs.jobs"
        )
    return sides


def matched(episodes: Episodes, instances: Iterable[Instance]) -> Sequence[Instance]:
    """The instance of each episode, found among `instances` by its hash.

    Raises:
        UserError: where there is none of that hash.
    """
    known: dict[str, Instance] = {}
    wanted = set(episodes.instance)
    for instance in instances:
        if instance.hash() in wanted:
            known[instance.hash()] = instance
        if len(known) == len(wanted):
            break
    for e, name in enumerate(episodes.instance):
        if name not in known:
            raise UserError(
                f"logs {episodes.name}: episode {e} was played on instance {name[:12]}, which its data set does not have; "
                "the data set or its settings changed since it was recorded"
            )
    return [known[name] for name in episodes.instance]
