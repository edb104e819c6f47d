"""One training on one logged dataset: epochs, checkpoints, selection and the evaluation report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.analysis import ope_metrics
from bench.contracts import Dataset, TrainingLogger
from bench.errors import UserError
from bench.instance import Instance
from bench.logs.episodes import LoggedEpisodes
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.networks.base import Network
from solvers.networks.checkpoint import resume_checkpoint, save_checkpoint
from solvers.offline.algorithm import OfflineSettings
from solvers.offline.evaluation import Estimate, PolicyEstimates, evaluate_policies
from solvers.rl.rollouts import play_greedily


class OfflineTraining:
    """Trains an algorithm on a log and selects one of the candidate policies.

    The candidates are the networks after each epoch of the second half of the training. Some
    episodes are held out, separated by instance, to evaluate the candidates on. An interrupted
    training resumes from `training.pt` in the folder of the run.

    Parameters
    ----------
    learner
        The settings and the algorithm.
    episodes
        The logged dataset.
    rng
        Draws all seeds.
    device
        Where to train.
    logger
        Receives metrics and progress; names the folder of the checkpoint.
    """

    def __init__(
        self,
        learner: OfflineSettings,
        episodes: LoggedEpisodes,
        rng: np.random.Generator,
        device: torch.device,
        logger: TrainingLogger,
    ) -> None:
        torch.manual_seed(int(rng.integers(2**62)))
        buffer_seed = int(rng.integers(2**62))
        self.evaluation_seed = int(rng.integers(2**62))
        self.rng = rng
        self.learner = learner
        self.logger = logger
        self.device = device
        self.episodes = episodes
        split_rng = np.random.default_rng(int(episodes.hash[:16], 16))  # the same for every run
        training, held_out = split_by_instance(episodes, learner.held_out, split_rng)
        self.held_out = episodes.select(held_out)
        self.held_out_instances = instances_of(self.held_out, learner.logs.instances())
        self.buffer = learner.make_buffer(episodes.select(training), device, buffer_seed)
        self.algorithm = learner.make_algorithm(self.buffer)
        self.epochs: list[dict[str, torch.Tensor]] = []  # weights of the network after each epoch
        self.networks: list[Network] = []  # the candidates
        self.estimates = PolicyEstimates({}, None, None)
        self.selected = 0  # index of a candidate
        self.cpu_seconds = 0.0
        self.seconds = 0.0
        self.path = logger.folder / "training.pt"
        resume_checkpoint(self.path, self._state(), self._restore)

    def train(self) -> None:
        """Train to the end; after each epoch keep the network and save a checkpoint."""
        learner = self.learner
        steps_per_epoch = learner.steps // (2 * learner.candidates)
        first_step = len(self.epochs) * steps_per_epoch
        clock = _Clock()
        for step in self.algorithm.train_epochs(
            self.buffer, learner.steps, steps_per_epoch, self.logger, first_step
        ):
            weights = learner.extract_network(self.algorithm, self.buffer).state_dict()
            if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
                raise FloatingPointError(
                    f"the network is no longer finite after {step} steps; lower solver.lr"
                )
            self.epochs.append(weights)
            self._spend(clock)
            self.save()
            self.logger.progress(step, learner.steps, "offline training")

    def select_network(self, data: Dataset, setting: Setting) -> Network:
        """Return the candidate that the learner's `selection` prefers.

        The CPU time of the selection is part of the training cost. Off-policy evaluation is part of
        it only where it selects; otherwise it serves the report alone.
        """
        learner = self.learner
        clock = _Clock()
        self.networks = [self._network(weights) for weights in self.epochs[-learner.candidates :]]
        self.estimates = self._evaluate()
        if learner.selection != "fqe":
            clock = _Clock()
        if learner.selection == "oracle":
            instances = list(data.instances("validation"))
            window = min(learner.window, max(instance.n_tasks for instance in instances))
            values = self._returns(instances, setting, window)
        else:
            values = [estimate.value for estimate in self.estimates.by_estimator["fqe"]]
            if not np.isfinite(values).all():
                raise FloatingPointError("fitted Q evaluation is not finite; lower solver.lr")
        last = len(self.networks) - 1
        self.selected = last if learner.selection == "last" else int(np.argmax(values))
        self._spend(clock)
        return self.networks[self.selected]

    def report(self) -> dict[str, Any]:
        """Return the offline evaluation report, for the record of the run.

        `logs/...` describes the log and `learning/...` the training. `ope/NAME` is an estimate of
        the selected policy, `_low` and `_high` its interval (None: no interval), `_error` its
        distance from `ope/true`, the mean return on the instances of the held-out episodes.
        `_rank` and `_regret_1` compare the estimates of all candidates with their true returns.
        """
        true = self._true_returns()
        estimates = self.estimates
        sizes = estimates.effective_sample_size
        facts: dict[str, Any] = {
            "logs/name": self.episodes.name,
            "logs/observe": self.learner.logs.setting.observe,
            "logs/hash": self.episodes.hash,
            "logs/episodes": len(self.episodes.length),
            "logs/decisions": len(self.episodes.action),
            "logs/return": float(self.episodes.returns.mean()),
            "logs/best_behaviour_return": max(self.episodes.return_by_behaviour.values()),
            "logs/held_out_return": float(self.held_out.returns.mean()),
            "learning/rewards": self.buffer.reward_kind,
            "learning/cpu_seconds": self.cpu_seconds,
            "learning/seconds": self.seconds,
            "learning/decisions": 0,  # in the simulator
            "learning/steps": self.learner.steps,
            "learning/chosen": self.selected + 1,
            "learning/selection": self.learner.selection,
            "ope/true": float(true[self.selected]),
            "ope/true_of_candidates": true.tolist(),
            "ope/refused": estimates.refused,
        }
        for name, of_candidates in estimates.by_estimator.items():
            facts |= _report_estimator(f"ope/{name}", of_candidates, self.selected, true)
        facts["ope/effective_episodes"] = sizes[self.selected] if sizes else None
        return facts

    def _spend(self, clock: _Clock) -> None:
        """Count the time since the clock was last read as training time."""
        cpu_seconds, seconds = clock.read()
        self.cpu_seconds += cpu_seconds
        self.seconds += seconds

    # -- parts -------------------------------------------------------------------------------------

    def _evaluate(self) -> PolicyEstimates:
        """Return every estimate of every candidate, from the held-out episodes alone."""
        learner = self.learner
        buffer = learner.make_buffer(self.held_out, self.device, self.evaluation_seed)
        return evaluate_policies(
            self.networks,
            buffer,
            self.rng,
            steps=learner.fqe_steps,
            batch=learner.batch,
            lr=learner.lr,
            width=learner.width,
            message_passing_rounds=learner.message_passing_rounds,
        )

    def _true_returns(self) -> NDArray[np.float64]:
        """Return (C,) the mean return of each candidate on the instances of the held-out episodes.

        An instance counts as often as it was played.
        """
        window = self.held_out.layout.tasks
        setting = self.learner.logs.setting
        return np.array(self._returns(self.held_out_instances, setting, window))

    def _returns(self, instances: Sequence[Instance], setting: Setting, window: int) -> list[float]:
        """Return the mean return of each candidate's greedy policy on `instances`."""
        simulator = TensorSimulator(instances, setting, window=window, device=self.device)
        return [float(play_greedily(network, simulator).mean()) for network in self.networks]

    def _network(self, weights: Mapping[str, torch.Tensor]) -> Network:
        network = self.learner.extract_network(self.algorithm, self.buffer)
        network.load_state_dict(weights)
        return network.eval()

    # -- saving ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint: all that is needed to resume to the same result."""
        save_checkpoint(self.path, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm.saved_state(),
            "epochs": self.epochs,
            "cpu_seconds": self.cpu_seconds,
            "seconds": self.seconds,
            "generator": self.buffer.generator.get_state(),
            "log": self.episodes.hash,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `_state` returned."""
        if state["log"] != self.episodes.hash:
            raise UserError(
                f"logs: {self.episodes.name} is not what {self.path} was trained on; "
                "rerun=true starts over"
            )
        self.algorithm.restore_state(state["algorithm"])
        self.buffer.generator.set_state(state["generator"])
        self.epochs = list(state["epochs"])
        self.cpu_seconds = float(state["cpu_seconds"])
        self.seconds = float(state.get("seconds", 0.0))


class _Clock:
    """Measures CPU seconds and seconds."""

    def __init__(self) -> None:
        self._began = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Return what has passed since the last reading."""
        cpu_began, began = self._began
        self._began = time.process_time(), time.perf_counter()
        return self._began[0] - cpu_began, self._began[1] - began


def _report_estimator(
    prefix: str, estimates: Sequence[Estimate], selected: int, true: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the part of the report about one estimator.

    Parameters
    ----------
    prefix
        Such as `ope/fqe`.
    estimates
        Of the C candidates.
    selected
        Index of the selected candidate.
    true
        (C,) true returns.
    """
    estimate = estimates[selected]
    values = np.array([one.value for one in estimates])
    facts: dict[str, Any] = {
        prefix: estimate.value,
        f"{prefix}_low": _none_if_nan(estimate.low),
        f"{prefix}_high": _none_if_nan(estimate.high),
        f"{prefix}_error": abs(estimate.value - float(true[selected])),
        f"{prefix}_of_candidates": values.tolist(),
    }
    if len(values) > 1:
        facts[f"{prefix}_rank"] = _none_if_nan(ope_metrics.rank_correlation(values, true))
        facts[f"{prefix}_regret_1"] = ope_metrics.regret(values, true, 1)
    return facts


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def split_by_instance(
    episodes: LoggedEpisodes, held_out: float, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Split episodes into training and held-out ones; no instance is in both parts.

    Parameters
    ----------
    episodes
        The log.
    held_out
        Share of the instances whose episodes are held out; at least one instance.
    rng
        Draws the instances.

    Returns
    -------
    tuple of list
        Indices of the training episodes, and of the held-out episodes.

    Raises
    ------
    UserError
        Where one part would be empty.
    """
    names = sorted(set(episodes.instance))
    count = min(max(1, round(held_out * len(names))), len(names) - 1)
    drawn = rng.permutation(len(names))[:count]
    held_out_names = {names[i] for i in drawn}
    training: list[int] = []
    held: list[int] = []
    for e, name in enumerate(episodes.instance):
        (held if name in held_out_names else training).append(e)
    if not training or not held:
        raise UserError(
            f"logs {episodes.name}: episodes on at least 2 instances are needed, because some are "
            f"held out, and all are on {len(names)}; raise solver.episodes if it is set; "
            "an imported log is cut into more episodes by a smaller logs.jobs"
        )
    return training, held


def instances_of(episodes: LoggedEpisodes, instances: Iterable[Instance]) -> list[Instance]:
    """Return the instance of each episode, found among `instances` by its hash.

    Raises
    ------
    UserError
        Where no instance has the hash.
    """
    wanted = set(episodes.instance)
    found: dict[str, Instance] = {}
    for instance in instances:
        if instance.hash() in wanted:
            found[instance.hash()] = instance
        if len(found) == len(wanted):
            break
    for e, name in enumerate(episodes.instance):
        if name not in found:
            raise UserError(
                f"logs {episodes.name}: episode {e} was played on instance {name[:12]}, which its "
                "dataset does not have; the dataset or its settings changed since it was recorded"
            )
    return [found[name] for name in episodes.instance]
