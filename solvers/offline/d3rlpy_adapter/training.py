"""Training d3rlpy's algorithms on an `OfflineBuffer`: batches, the loop, logging and saving."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.torch_utility import TorchMiniBatch, TorchTrajectoryMiniBatch

from bench.contracts import TrainingLogger
from bench.logs.episodes import LoggedEpisodes
from solvers.offline.buffer import OfflineBuffer, TransitionBatch


class TrainsFromOfflineBuffer:
    """Mixin of d3rlpy's algorithms: updates on tensors and an `OfflineBuffer` as training data.

    It implements `solvers.offline.algorithm.OfflineAlgorithm`.
    """

    def update(self: Any, batch: Any) -> dict[str, float]:
        """Do one gradient step and return the losses.

        Parameters
        ----------
        batch
            A batch of tensors, which is used as it is, or a numpy batch of d3rlpy's own buffers.
        """
        if not isinstance(batch, TorchMiniBatch | TorchTrajectoryMiniBatch):
            losses: dict[str, float] = super().update(batch)  # type: ignore[misc]
            return losses
        losses = self._impl.update(batch, self._grad_step)
        self._grad_step += 1
        return losses

    def train_epochs(
        self: Any,
        buffer: OfflineBuffer,
        steps: int,
        steps_per_epoch: int,
        logger: TrainingLogger,
        first_step: int = 0,
    ) -> Iterator[int]:
        """Run d3rlpy's training loop from `first_step`; after each epoch yield the steps done."""
        epochs = self.fitter(
            BatchSampler(buffer),
            n_steps=steps - first_step,
            n_steps_per_epoch=steps_per_epoch,
            with_timestamp=False,
            show_progress=False,
            logger_adapter=LoggerAdapter(logger, first_step),
        )
        for epoch, _ in epochs:
            yield first_step + epoch * steps_per_epoch

    def saved_state(self: Any) -> dict[str, Any]:
        """Return all that training needs to resume."""
        file = io.BytesIO()
        self.impl.save_model(file)
        return {"impl": file.getvalue(), "grad_step": self._grad_step}

    def restore_state(self: Any, state: Mapping[str, Any]) -> None:
        """Set the state that `saved_state` returned."""
        self.impl.load_model(io.BytesIO(state["impl"]))
        self._grad_step = state["grad_step"]


def device_name(device: torch.device) -> str:
    """Return d3rlpy's name of a device."""
    return "cpu:0" if device.type == "cpu" else str(device)


def to_mini_batch(batch: TransitionBatch, device: torch.device) -> TorchMiniBatch:
    """Return a batch in d3rlpy's form. The tensors share their memory with `batch`."""
    reward = batch.reward[:, None]
    unused = torch.zeros_like(reward)
    return TorchMiniBatch(
        observations=batch.state,
        actions=batch.action[:, None],
        rewards=reward,
        next_observations=batch.next_state,
        next_actions=unused,
        returns_to_go=unused,
        terminals=batch.terminal[:, None],
        intervals=unused + 1.0,
        device=str(device),
    )


def to_replay_buffer(episodes: LoggedEpisodes) -> d3rlpy.dataset.ReplayBuffer:
    """Return a log as d3rlpy's own replay buffer of flat observations.

    It serves d3rlpy's own algorithms, and its `dump` writes the log for other users of d3rlpy.
    """
    converted = []
    for first, length in zip(episodes.first.tolist(), episodes.length.tolist(), strict=True):
        rows = slice(first, first + length)
        observations = episodes.observation[episodes.state[rows]]
        rewards = episodes.reward[rows, None].astype(np.float32)
        terminated = bool(episodes.terminated[rows][-1])
        actions = episodes.action[rows, None]
        converted.append(d3rlpy.dataset.Episode(observations, actions, rewards, terminated))
    return d3rlpy.dataset.ReplayBuffer(
        d3rlpy.dataset.InfiniteBuffer(),
        episodes=converted,
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=episodes.layout.actions,
    )


class BatchSampler:
    """An `OfflineBuffer` where d3rlpy's training loop expects a replay buffer."""

    def __init__(self, buffer: OfflineBuffer) -> None:
        self.buffer = buffer
        signature = d3rlpy.dataset.Signature(dtype=[torch.float32], shape=[(1,)])
        self.dataset_info = d3rlpy.dataset.DatasetInfo(
            observation_signature=signature,
            action_signature=signature,
            reward_signature=signature,
            action_space=d3rlpy.ActionSpace.DISCRETE,
            action_size=buffer.layout.actions,
        )

    def sample_transition_batch(self, count: int) -> TorchMiniBatch:
        """Draw `count` transitions uniformly with replacement."""
        return to_mini_batch(self.buffer.sample(count), self.buffer.device)

    def sample_trajectory_batch(self, count: int, length: int) -> TorchTrajectoryMiniBatch:
        """Draw `count` sequences of at most `length` decisions, padded in front.

        The last decision of each sequence is drawn uniformly with replacement.
        """
        last = self.buffer.sample_indices(count)
        past = self.buffer.trajectories(last, length)
        unused = torch.zeros_like(past.return_to_go)[..., None]
        return TorchTrajectoryMiniBatch(
            observations=past.features,
            actions=past.action[..., None],
            rewards=unused,
            returns_to_go=past.return_to_go[..., None],
            terminals=unused,
            timesteps=past.timestep[..., None],
            masks=past.valid,
            device=str(self.buffer.device),
        )


class LoggerAdapter:
    """A LoggerAdapter of d3rlpy, and its own factory: sends the metrics of an epoch to a logger."""

    def __init__(self, logger: TrainingLogger, first_step: int = 0) -> None:
        self.logger = logger
        self.first_step = first_step
        self.values: dict[str, float] = {}

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> LoggerAdapter:
        """Return itself: d3rlpy calls this method of a factory to get the adapter."""
        return self

    def write_params(self, params: dict[str, Any]) -> None:
        """Do nothing: the configuration of the run is recorded elsewhere."""

    def before_write_metric(self, epoch: int, step: int) -> None:
        """Start the metrics of an epoch."""
        self.values = {}

    def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
        """Add one metric: times as `charts/NAME`, everything else as `losses/NAME`."""
        group = "charts" if name.startswith("time_") else "losses"
        self.values[f"{group}/{name.removesuffix('_loss')}"] = value

    def after_write_metric(self, epoch: int, step: int) -> None:
        """Log the metrics of the epoch."""
        self.logger.metrics(self.first_step + step, self.values)

    def watch_model(self, epoch: int, step: int) -> None:
        """Do nothing: gradients are not logged."""

    def save_model(self, epoch: int, algo: Any) -> None:
        """Do nothing: `OfflineTraining` saves."""

    def close(self) -> None:
        """Do nothing: no file is open."""
