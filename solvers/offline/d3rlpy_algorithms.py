"""All that knows d3rlpy (2.8, Seno & Imai 2022, JMLR 23:315): its algorithms with masks, on the network that scores pairs.

d3rlpy has no masks. Here illegal actions have the value ILLEGAL in every Q function and the log-probability ILLEGAL in every
policy: they are never the best, add nothing to a log-sum-exp and have probability 0. The value is finite because d3rlpy
multiplies the values of what follows an end by 0. Observations are a log's flat vectors, or the State that `Feed` made of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

with contextlib.redirect_stderr(io.StringIO()):  # it imports the old gym, which says so
    import d3rlpy
    import structlog
    from d3rlpy.algos.qlearning.torch.bcq_impl import DiscreteBCQImpl
    from d3rlpy.algos.qlearning.torch.cql_impl import DiscreteCQLImpl, DiscreteCQLLoss
    from d3rlpy.algos.qlearning.torch.sac_impl import DiscreteSACImpl
    from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
        DiscreteDecisionTransformerImpl,
        DiscreteDecisionTransformerModules,
    )
    from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
    from d3rlpy.models.q_functions import QFunctionFactory, register_q_func_factory
    from d3rlpy.models.torch import Encoder
    from d3rlpy.models.torch.q_functions import (
        DiscreteMeanQFunctionForwarder,
        DiscreteQFunction,
        DiscreteQRQFunctionForwarder,
        QFunctionOutput,
    )
    from d3rlpy.models.torch.q_functions.qr_q_function import _make_taus
    from d3rlpy.torch_utility import TorchMiniBatch, TorchTrajectoryMiniBatch

from bench.contracts import Log
from bench.logs.episodes import Episodes
from bench.simulator.view import Layout
from solvers.networks.pairwise import PairNetwork
from solvers.offline.feed import Batch, Feed, State, q_values, states

structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
)  # it narrates every run on stdout

ILLEGAL = -1e8


# -- networks --------------------------------------------------------------------------------------------------------


class PairEncoder(Encoder):
    """A PairNetwork where d3rlpy expects an encoder: gives masked logits (B, A)."""

    def __init__(self, network: PairNetwork, layout: Layout, objective: str) -> None:
        super().__init__()
        self.network, self.layout, self.objective = network, layout, objective

    def see(self, x: Any) -> State:
        """The State of a batch of flat observations, or the State itself."""
        return x if isinstance(x, State) else states(x, self.layout, self.objective)

    def forward(self, x: Any) -> Tensor:
        """Logits, ILLEGAL where illegal."""
        logits, _ = self.network(self.see(x).features)
        return logits.clamp(min=ILLEGAL)

    def q(self, x: Any) -> Tensor:
        """Q values (B, A) or, with several outputs, quantiles (B, A, n); ILLEGAL where illegal."""
        seen = self.see(x)
        legal = seen.mask if self.network.outputs == 1 else seen.mask[..., None]
        return q_values(self.network, seen).masked_fill(~legal, ILLEGAL)


@dataclasses.dataclass()
class PairEncoderFactory(EncoderFactory):
    """Makes PairEncoders for a log's layout (K, M, R) and objective."""

    layout: tuple[int, int, int]
    objective: str
    width: int = 32
    rounds: int = 2
    outputs: int = 1

    def create(self, observation_shape: Any) -> PairEncoder:
        """A new network."""
        return PairEncoder(
            PairNetwork(self.width, self.rounds, self.outputs), Layout(*self.layout), self.objective
        )

    @staticmethod
    def get_type() -> str:
        """Its name in d3rlpy's files."""
        return "pairs"


class PairQFunction(DiscreteQFunction):
    """The Q function of a PairEncoder, of its mean or of its quantiles."""

    def __init__(self, encoder: PairEncoder) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, x: Any) -> QFunctionOutput:
        """Q values, and the quantiles where there are any."""
        q, count = self._encoder.q(x), self._encoder.network.outputs
        if count == 1:
            return QFunctionOutput(q_value=q, quantiles=None, taus=None)
        return QFunctionOutput(q_value=q.mean(dim=2), quantiles=q, taus=_make_taus(count, q.device))

    @property
    def encoder(self) -> PairEncoder:
        """Its network."""
        return self._encoder


@dataclasses.dataclass()
class PairQFunctionFactory(QFunctionFactory):
    """Q functions of pairs: the mean, or `quantiles` of the return (QR-DQN, Dabney et al. 2018, arXiv:1710.10044)."""

    quantiles: int = 1

    def create_discrete(self, encoder: Any, hidden_size: int, action_size: int) -> tuple[Any, Any]:
        """The function and d3rlpy's own losses for it."""
        q = PairQFunction(encoder)
        if self.quantiles == 1:
            return q, DiscreteMeanQFunctionForwarder(q, action_size)
        return q, DiscreteQRQFunctionForwarder(q, self.quantiles)

    @staticmethod
    def get_type() -> str:
        """Its name in d3rlpy's files."""
        return "pairs"


register_encoder_factory(PairEncoderFactory)
register_q_func_factory(PairQFunctionFactory)


# -- algorithms ------------------------------------------------------------------------------------------------------


class Fed:
    """An algorithm of d3rlpy that also takes the batches of a Feed, without a detour through numpy."""

    def update(self: Any, batch: Any) -> dict[str, float]:
        """One gradient step on a batch of tensors, or on one of d3rlpy's own batches."""
        if not isinstance(batch, TorchMiniBatch | TorchTrajectoryMiniBatch):
            return super().update(batch)  # type: ignore[misc]
        loss: dict[str, float] = self._impl.update(batch, self._grad_step)
        self._grad_step += 1
        return loss


def _recast(algorithm: Any, kind: type) -> None:
    """Give an algorithm's implementation our methods: d3rlpy's `inner_create_impl` names the class that it builds."""
    algorithm._impl.__class__ = kind


def _headless(policy: Any) -> None:
    """A CategoricalPolicy whose encoder gives logits already."""
    policy._fc = nn.Identity()


class DQN(Fed, d3rlpy.algos.DQN):
    """Deep Q-network (Mnih et al. 2015)."""


class DoubleDQN(Fed, d3rlpy.algos.DoubleDQN):
    """Double DQN (van Hasselt et al. 2016, arXiv:1509.06461)."""


class NFQ(Fed, d3rlpy.algos.NFQ):
    """Neural fitted Q iteration (Riedmiller 2005)."""


class BC(Fed, d3rlpy.algos.DiscreteBC):
    """Behavioural cloning (Pomerleau 1991)."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """With a policy over pairs."""
        super().inner_create_impl(observation_shape, action_size)
        _headless(self._impl.modules.imitator)


class OnePassCQL(DiscreteCQLImpl):
    """As d3rlpy's, with one pass of the network for the TD error and the conservative term together."""

    def compute_loss(self, batch: TorchMiniBatch, q_tpn: Tensor) -> DiscreteCQLLoss:
        """Eq. 4 of the paper with a uniform prior."""
        function = self._modules.q_funcs[0]
        output = function(batch.observations)
        remembered = self._q_func_forwarder._forwarders[0]
        remembered.set_q_func(lambda _: output)
        try:
            return super().compute_loss(batch, q_tpn)
        finally:
            remembered.set_q_func(function)


class CQL(Fed, d3rlpy.algos.DiscreteCQL):
    """Conservative Q-learning (Kumar et al. 2020, arXiv:2006.04779)."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """With one critic, whose values are computed once a step."""
        super().inner_create_impl(observation_shape, action_size)
        _recast(self, OnePassCQL)


class LegalBCQ(DiscreteBCQImpl):
    """As d3rlpy's, which compares values after subtracting the smallest one: with ILLEGAL there all legal ones would tie."""

    def inner_predict_best_action(self, x: Any) -> Tensor:
        """The best of the actions that the imitator finds likely enough."""
        logits = self._modules.imitator(x).logits
        likely = logits - logits.max(dim=1, keepdim=True).values >= math.log(
            self._action_flexibility
        )
        return (
            self._q_func_forwarder.compute_expected_q(x)
            .masked_fill(~likely, -math.inf)
            .argmax(dim=1)
        )


class BCQ(Fed, d3rlpy.algos.DiscreteBCQ):
    """Batch-constrained Q-learning for discrete actions (Fujimoto et al. 2019, arXiv:1910.01708)."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """With an imitator over pairs."""
        super().inner_create_impl(observation_shape, action_size)
        _headless(self._impl.modules.imitator)
        _recast(self, LegalBCQ)


class LegalSAC(DiscreteSACImpl):
    """As d3rlpy's, whose target entropy counts all actions: here it is 0.98 of the largest over the legal ones."""

    def update_temp(self, dist: Any) -> dict[str, Tensor]:
        """One step of the temperature."""
        assert self._modules.temp_optim is not None
        assert self._modules.log_temp is not None
        self._modules.temp_optim.zero_grad()
        with torch.no_grad():
            legal = (dist.logits > 0.5 * ILLEGAL).sum(dim=1, keepdim=True)
            excess = 0.98 * torch.log(legal.float()) - dist.entropy()[:, None]
        log_temp = next(iter(self._modules.log_temp.parameters()))
        loss = (log_temp.exp() * -excess).mean()
        loss.backward()
        self._modules.temp_optim.step()
        return {"temp_loss": loss, "temp": log_temp.exp()[0][0]}


class SAC(Fed, d3rlpy.algos.DiscreteSAC):
    """Soft actor-critic for discrete actions (Christodoulou 2019, arXiv:1910.07207)."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """With a policy over pairs."""
        super().inner_create_impl(observation_shape, action_size)
        _headless(self._impl.modules.policy)
        _recast(self, LegalSAC)


@dataclasses.dataclass(frozen=True)
class IQLModules(d3rlpy.torch_utility.Modules):
    """What implicit Q-learning trains."""

    q_funcs: nn.ModuleList
    targ_q_funcs: nn.ModuleList
    value: PairEncoder
    policy: PairEncoder
    optim: Any


class IQLImpl(d3rlpy.algos.qlearning.base.QLearningAlgoImplBase):
    """The three losses of implicit Q-learning for discrete actions."""

    def __init__(
        self,
        modules: IQLModules,
        forwarders: tuple[Any, Any],
        config: IQLConfig,
        shape: Any,
        size: int,
        device: str,
    ):
        super().__init__(observation_shape=shape, action_size=size, modules=modules, device=device)
        self._forwarder, self._target, self._config = *forwarders, config

    def inner_update(self, batch: TorchMiniBatch, grad_step: int) -> dict[str, float]:
        """One step of value, Q function and policy together."""
        m, config, action = self._modules, self._config, batch.actions.long()
        with torch.no_grad():
            q = self._target.compute_expected_q(batch.observations).gather(1, action)
        value = self._value(batch.observations)
        excess = q - value
        weight = torch.where(excess > 0, config.expectile, 1.0 - config.expectile)
        value_loss = (weight * excess.square()).mean()  # eq. 5
        with torch.no_grad():
            target = self._value(batch.next_observations)
        td_loss = self._forwarder.compute_error(  # eq. 6
            observations=batch.observations, actions=action, rewards=batch.rewards, target=target, terminals=batch.terminals,
            gamma=config.gamma,
        )  # fmt: skip
        advantage = (
            (config.inverse_temperature * excess.detach()).exp().clamp(max=config.largest_weight)
        )
        policy_loss = -(
            advantage * m.policy(batch.observations).log_softmax(dim=1).gather(1, action)
        ).mean()  # eq. 7
        m.optim.zero_grad()
        (value_loss + td_loss + policy_loss).backward()
        m.optim.step()
        if grad_step % config.target_update_interval == 0:
            d3rlpy.torch_utility.hard_sync(m.targ_q_funcs, m.q_funcs)
        losses = {"value_loss": value_loss, "td_loss": td_loss, "policy_loss": policy_loss}
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _value(self, x: Any) -> Tensor:
        """(B, 1) in return."""
        seen = self._modules.value.see(x)
        return (self._modules.value.network(seen.features)[1] * seen.unit)[:, None]

    def inner_predict_best_action(self, x: Any) -> Tensor:
        """The policy's likeliest action."""
        return self._modules.policy(x).argmax(dim=1)

    def inner_sample_action(self, x: Any) -> Tensor:
        """An action of the policy."""
        return torch.distributions.Categorical(logits=self._modules.policy(x)).sample()

    def inner_predict_value(self, x: Any, action: Tensor) -> Tensor:
        """Q of the actions."""
        return self._forwarder.compute_expected_q(x).gather(1, action.view(-1, 1))[:, 0]


@dataclasses.dataclass()
class IQLConfig(d3rlpy.algos.DQNConfig):
    """Of implicit Q-learning. `inverse_temperature` is per unit of scaled return, as the advantages are."""

    expectile: float = 0.8
    inverse_temperature: float = 1.0
    largest_weight: float = 100.0

    @staticmethod
    def get_type() -> str:
        """Its name in d3rlpy's files."""
        return "discrete_iql"


class IQL(Fed, d3rlpy.algos.QLearningAlgoBase):
    """Implicit Q-learning (Kostrikov et al. 2022, arXiv:2110.06169), for discrete actions: d3rlpy's is for continuous ones."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Networks and optimizer."""
        config: IQLConfig = self._config

        def q() -> Any:
            return d3rlpy.models.builders.create_discrete_q_function(
                observation_shape,
                action_size,
                config.encoder_factory,
                config.q_func_factory,
                self._device,
                False,
            )

        (q_funcs, forwarder), (targ_q_funcs, target) = q(), q()
        d3rlpy.torch_utility.hard_sync(targ_q_funcs, q_funcs)
        value, policy = (
            config.encoder_factory.create(observation_shape).to(self._device) for _ in range(2)
        )
        named = [*q_funcs.named_modules(), *value.named_modules(), *policy.named_modules()]
        optim = config.optim_factory.create(named, lr=config.learning_rate, compiled=False)
        modules = IQLModules(q_funcs, targ_q_funcs, value, policy, optim)
        self._impl = IQLImpl(
            modules, (forwarder, target), config, observation_shape, action_size, self._device
        )

    def get_action_type(self) -> Any:
        """Discrete."""
        return d3rlpy.ActionSpace.DISCRETE


d3rlpy.base.register_learnable(IQLConfig)


class LegalTransformer(DiscreteDecisionTransformerImpl):
    """As d3rlpy's, whose loss counts padding too and knows no masks."""

    def compute_loss(self, batch: TorchTrajectoryMiniBatch) -> Tensor:
        """Cross-entropy of what was done, over the decisions that were made."""
        action, known = batch.actions.squeeze(2).long(), batch.masks
        steps, return_to_go = batch.timesteps.squeeze(2), batch.returns_to_go.squeeze(2)
        logits = self._modules.transformer.along(
            batch.observations, action, return_to_go, steps, known
        ).clamp(min=ILLEGAL)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), action.flatten(), reduction="none")
        return (loss * known.flatten()).sum() / known.sum()


class DecisionTransformer(Fed, d3rlpy.algos.DiscreteDecisionTransformer):
    """Decision transformer (Chen et al. 2021, arXiv:2106.01345) over a TransformerNetwork."""

    def __init__(self, network: Any, config: Any, device: str) -> None:
        super().__init__(config, device, False)
        self.network = network

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """With our network in place of d3rlpy's."""
        config = self._config
        optim = config.optim_factory.create(
            self.network.named_modules(), lr=config.learning_rate, compiled=False
        )
        self._impl = LegalTransformer(
            observation_shape=observation_shape, action_size=action_size,
            modules=DiscreteDecisionTransformerModules(transformer=self.network, optim=optim),
            warmup_tokens=config.warmup_tokens, final_tokens=config.final_tokens, initial_learning_rate=config.learning_rate,
            compiled=False, device=self._device,
        )  # fmt: skip


def decision_transformer(
    network: Any, layout: Layout, device: torch.device, lr: float, batch: int, steps: int
) -> Any:
    """One that trains `network` for `steps` of `batch` trajectories; the learning rate falls to a tenth."""
    tokens = steps * batch * network.context
    config = d3rlpy.algos.DiscreteDecisionTransformerConfig(
        batch_size=batch, learning_rate=lr, context_size=network.context, warmup_tokens=tokens // 50, final_tokens=tokens,
        optim_factory=d3rlpy.optimizers.AdamFactory(clip_grad_norm=1.0),
    )  # fmt: skip
    algorithm = DecisionTransformer(network.to(device), config, _device(device))
    algorithm.create_impl((layout.size,), layout.actions)
    return algorithm


# -- running them ----------------------------------------------------------------------------------------------------


KINDS: dict[
    str, tuple[type, type, dict[str, Any]]
] = {  # ours, its configuration, what is fixed in it
    "BC": (BC, d3rlpy.algos.DiscreteBCConfig, {"beta": 0.0}),
    "DQN": (DQN, d3rlpy.algos.DQNConfig, {}),
    "DoubleDQN": (DoubleDQN, d3rlpy.algos.DoubleDQNConfig, {}),
    "NFQ": (NFQ, d3rlpy.algos.NFQConfig, {}),
    "CQL": (CQL, d3rlpy.algos.DiscreteCQLConfig, {}),
    "BCQ": (BCQ, d3rlpy.algos.DiscreteBCQConfig, {"beta": 0.0, "share_encoder": False}),
    "SAC": (SAC, d3rlpy.algos.DiscreteSACConfig, {"initial_temperature": 0.1}),
    "IQL": (IQL, IQLConfig, {}),
}


class Settings(NamedTuple):
    """What algorithms are set by, each by those of these that it has."""

    width: int
    rounds: int
    lr: float
    batch: int
    gamma: float
    target_update: int = 25  # steps between copies to the target network
    quantiles: int = 1
    alpha: float | None = None
    flexibility: float | None = None
    expectile: float | None = None
    inverse_temperature: float | None = None


def build(kind: str, feed: Feed, settings: Settings, steps: int) -> Any:
    """An algorithm of KINDS with its networks, for what a feed shows; learning rates fall to 0 over `steps`."""
    ours, config, fixed = KINDS[kind]
    s, layout = settings, feed.layout
    optimizer = d3rlpy.optimizers.AdamFactory(
        clip_grad_norm=1.0,
        lr_scheduler_factory=d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps),
    )
    encoder = PairEncoderFactory(tuple(layout), feed.log.objective, s.width, s.rounds, s.quantiles)
    values = {
        "q_func_factory": PairQFunctionFactory(quantiles=s.quantiles), "target_update_interval": s.target_update,
        "batch_size": s.batch, "gamma": s.gamma, "temp_learning_rate": s.lr, "alpha": s.alpha,
        "action_flexibility": s.flexibility, "expectile": s.expectile, "inverse_temperature": s.inverse_temperature,
    }  # fmt: skip
    for name in ("", "actor_", "critic_"):
        own = {"optim_factory": optimizer, "encoder_factory": encoder, "learning_rate": s.lr}
        values |= {f"{name}{key}": value for key, value in own.items()}
    known = {field.name for field in dataclasses.fields(config)}
    chosen = {name: value for name, value in values.items() if name in known and value is not None}
    algorithm = ours(config(**chosen, **fixed), _device(feed.device), False)
    algorithm.create_impl((layout.size,), layout.actions)
    return algorithm


def q_network(algorithm: Any) -> PairNetwork:
    """The network of its Q function."""
    network: PairNetwork = algorithm.impl.q_function[0].encoder.network
    return network


def policy_network(algorithm: Any) -> PairNetwork:
    """The network of its policy, or of the imitator that is its policy or part of it."""
    modules = algorithm.impl.modules
    module = modules.imitator if hasattr(modules, "imitator") else modules.policy
    network: PairNetwork = getattr(module, "_encoder", module).network
    return network


def _device(device: torch.device) -> str:
    return "cpu:0" if device.type == "cpu" else str(device)


def mini_batch(batch: Batch, device: torch.device) -> TorchMiniBatch:
    """d3rlpy's form of a Batch, over the same memory."""
    column = batch.reward[:, None]
    none = torch.zeros_like(column)
    return TorchMiniBatch(
        observations=batch.seen, actions=batch.action[:, None], rewards=column, next_observations=batch.following,
        next_actions=none, returns_to_go=none,
        terminals=batch.terminal[:, None], intervals=none + 1.0, device=str(device),
    )  # fmt: skip


def replay_buffer(log: Episodes) -> d3rlpy.dataset.ReplayBuffer:
    """A log as d3rlpy's own replay buffer, of flat observations: for d3rlpy as it is, or to `dump` for it."""
    made = []
    for first, length in zip(log.first.tolist(), log.length.tolist(), strict=True):
        at = slice(first, first + length)
        seen, reward = log.observation[log.state[at]], log.reward[at, None].astype(np.float32)
        made.append(
            d3rlpy.dataset.Episode(seen, log.action[at, None], reward, bool(log.terminated[at][-1]))
        )
    buffer, discrete = d3rlpy.dataset.InfiniteBuffer(), d3rlpy.ActionSpace.DISCRETE
    return d3rlpy.dataset.ReplayBuffer(
        buffer, episodes=made, action_space=discrete, action_size=log.layout.actions
    )


class FeedBuffer:
    """A Feed where d3rlpy's `fit` expects its replay buffer."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        signature = d3rlpy.dataset.Signature(dtype=[torch.float32], shape=[(1,)])
        self.dataset_info = d3rlpy.dataset.DatasetInfo(
            observation_signature=signature, action_signature=signature, reward_signature=signature,
            action_space=d3rlpy.ActionSpace.DISCRETE, action_size=feed.layout.actions,
        )  # fmt: skip

    def sample_transition_batch(self, count: int) -> TorchMiniBatch:
        """`count` decisions drawn uniformly."""
        return mini_batch(self.feed.draw(count), self.feed.device)

    def sample_trajectory_batch(self, count: int, length: int) -> TorchTrajectoryMiniBatch:
        """`count` stretches of at most `length` decisions, padded in front, each ending at one drawn uniformly."""
        past = self.feed.trajectories(self.feed.rows(count), length)
        none = torch.zeros_like(past.return_to_go)[..., None]
        return TorchTrajectoryMiniBatch(
            observations=past.seen, actions=past.action[..., None], rewards=none, returns_to_go=past.return_to_go[..., None],
            terminals=none, timesteps=past.step[..., None], masks=past.known, device=str(self.feed.device),
        )  # fmt: skip


def fit(
    algorithm: Any, feed: Feed, steps: int, per_epoch: int, log: Log, begun: int = 0
) -> Iterator[int]:
    """d3rlpy's own training loop, epoch by epoch; yields the steps done. `begun`: steps that were done before."""
    adapter = ToLog(log, begun)
    if not hasattr(algorithm, "fitter"):  # transformers have no loop that yields
        for done in range(begun + per_epoch, steps + 1, per_epoch):
            adapter.begun = done - per_epoch
            algorithm.fit(
                FeedBuffer(feed), n_steps=per_epoch, n_steps_per_epoch=per_epoch, with_timestamp=False, show_progress=False,
                logger_adapter=adapter,
            )  # fmt: skip
            yield done
        return
    for epoch, _ in algorithm.fitter(
        FeedBuffer(feed), n_steps=steps - begun, n_steps_per_epoch=per_epoch, with_timestamp=False, show_progress=False,
        logger_adapter=adapter,
    ):  # fmt: skip
        yield begun + epoch * per_epoch


class ToLog:
    """A LoggerAdapter and its factory: d3rlpy's metrics go to the run's log, and so to MLflow, an epoch at a time."""

    def __init__(self, log: Log, begun: int = 0) -> None:
        self.log, self.begun, self.values = log, begun, dict[str, float]()

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> ToLog:
        """d3rlpy asks the factory for the adapter."""
        return self

    def write_params(self, params: dict[str, Any]) -> None:
        """The run's own configuration says it all."""

    def before_write_metric(self, epoch: int, step: int) -> None:
        """A new set of metrics."""
        self.values = {}

    def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
        """One of the set: times as `charts/`, the rest as `losses/`."""
        group = "charts" if name.startswith("time_") else "losses"
        self.values[f"{group}/{name.removesuffix('_loss')}"] = value

    def after_write_metric(self, epoch: int, step: int) -> None:
        """The whole set at once."""
        self.log.metrics(self.begun + step, self.values)

    def watch_model(self, epoch: int, step: int) -> None:
        """Not kept."""

    def save_model(self, epoch: int, algo: Any) -> None:
        """The learner saves."""

    def close(self) -> None:
        """Nothing is open."""


def state_of(algorithm: Any) -> dict[str, Any]:
    """All that an algorithm needs to go on."""
    memory = io.BytesIO()
    algorithm.impl.save_model(memory)
    return {
        "impl": memory.getvalue(),
        "grad_step": algorithm._grad_step,
        "tokens": getattr(algorithm.impl, "_tokens", 0),
    }


def restore(algorithm: Any, state: Mapping[str, Any]) -> None:
    """Inverse of `state_of`."""
    algorithm.impl.load_model(io.BytesIO(state["impl"]))
    algorithm._grad_step, algorithm.impl._tokens = state["grad_step"], state["tokens"]
