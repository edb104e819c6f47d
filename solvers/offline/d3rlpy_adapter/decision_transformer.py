"""The decision transformer of d3rlpy, with masks and on a `DecisionTransformerNetwork`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import d3rlpy
from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
    DiscreteDecisionTransformerImpl,
    DiscreteDecisionTransformerModules,
)
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch
from torch import Tensor, nn

from bench.contracts import TrainingLogger
from solvers.networks.decision_transformer import DecisionTransformerNetwork
from solvers.offline.buffer import OfflineBuffer
from solvers.offline.d3rlpy_adapter.networks import ILLEGAL
from solvers.offline.d3rlpy_adapter.training import (
    BatchSampler,
    LoggerAdapter,
    TrainsFromOfflineBuffer,
    device_name,
)


class MaskedTransformerImpl(DiscreteDecisionTransformerImpl):
    """d3rlpy's decision transformer with another loss: d3rlpy's counts padding and has no masks."""

    def compute_loss(self, batch: TorchTrajectoryMiniBatch) -> Tensor:
        """Return the mean cross-entropy of the logged actions over all entries but the padding."""
        action = batch.actions.squeeze(2).long()
        valid = batch.masks
        return_to_go = batch.returns_to_go.squeeze(2)
        timestep = batch.timesteps.squeeze(2)
        logits = self._modules.transformer.forward_sequence(
            batch.observations, action, return_to_go, timestep, valid
        ).clamp(min=ILLEGAL)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), action.flatten(), reduction="none")
        return (loss * valid.flatten()).sum() / valid.sum()


class DecisionTransformer(TrainsFromOfflineBuffer, d3rlpy.algos.DiscreteDecisionTransformer):
    """Decision transformer (Chen et al. 2021, arXiv:2106.01345)."""

    def __init__(self, network: DecisionTransformerNetwork, config: Any, device: str) -> None:
        super().__init__(config, device, False)
        self.network = network

    @classmethod
    def create(
        cls,
        network: DecisionTransformerNetwork,
        buffer: OfflineBuffer,
        lr: float,
        batch: int,
        steps: int,
    ) -> Self:
        """Return the algorithm that trains `network`.

        Parameters
        ----------
        network
            The network; it is moved to the device of the buffer.
        buffer
            Names the layout and the device.
        lr
            Learning rate; it decays to a tenth over `steps`.
        batch
            Sequences per gradient step.
        steps
            Gradient steps in all.
        """
        tokens = steps * batch * network.context
        config = d3rlpy.algos.DiscreteDecisionTransformerConfig(
            batch_size=batch,
            learning_rate=lr,
            context_size=network.context,
            warmup_tokens=tokens // 50,
            final_tokens=tokens,
            optim_factory=d3rlpy.optimizers.AdamFactory(clip_grad_norm=1.0),
        )
        algorithm = cls(network.to(buffer.device), config, device_name(buffer.device))
        algorithm.create_impl((buffer.layout.size,), buffer.layout.actions)
        return algorithm

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Create the implementation with our network."""
        config = self._config
        optim = config.optim_factory.create(
            self.network.named_modules(), lr=config.learning_rate, compiled=False
        )
        self._impl = MaskedTransformerImpl(
            observation_shape=observation_shape,
            action_size=action_size,
            modules=DiscreteDecisionTransformerModules(transformer=self.network, optim=optim),
            warmup_tokens=config.warmup_tokens,
            final_tokens=config.final_tokens,
            initial_learning_rate=config.learning_rate,
            compiled=False,
            device=self._device,
        )

    def train_epochs(
        self: Any,
        buffer: OfflineBuffer,
        steps: int,
        steps_per_epoch: int,
        logger: TrainingLogger,
        first_step: int = 0,
    ) -> Iterator[int]:
        """Run d3rlpy's training loop once per epoch, as it cannot yield between epochs."""
        for step in range(first_step, steps - steps_per_epoch + 1, steps_per_epoch):
            self.fit(
                BatchSampler(buffer),
                n_steps=steps_per_epoch,
                n_steps_per_epoch=steps_per_epoch,
                with_timestamp=False,
                show_progress=False,
                logger_adapter=LoggerAdapter(logger, step),
            )
            yield step + steps_per_epoch

    def saved_state(self: Any) -> dict[str, Any]:
        """Return all that training needs to resume, with the token count of the learning rate."""
        return {**super().saved_state(), "tokens": self.impl._tokens}

    def restore_state(self: Any, state: Mapping[str, Any]) -> None:
        """Set the state that `saved_state` returned."""
        super().restore_state(state)
        self.impl._tokens = state["tokens"]
