"""PPO as others implement it: a loop in the style of CleanRL, and MaskablePPO.

Both have the network of ours (two perceptrons with tanh, policy and value), the same instances and
epochs. `train_iteration` collects one rollout and updates with it once. The environments implement
`VectorEnvs`: `BatchedEnvs` is our batched simulator with the input vector of our network,
`GymnasiumEnvs` steps Gymnasium environments one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.instance import Instance
from bench.simulator.view import from_simulator

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


class VectorEnvs(Protocol):
    """B environments that restart automatically; F observation features, A actions."""

    num_envs: int

    def observe(self) -> tuple[Floats, Bools]:
        """Return observations (B, F) and action masks (B, A) of the current decisions."""

    def step(self, actions: NDArray[np.int64]) -> tuple[Floats, Bools]:
        """Apply actions (B,); return rewards (B,) and whether each episode ended (B,)."""


class BatchedEnvs:
    """The environments of a rollout collector of ours, observed as its network observes them.

    Parameters
    ----------
    collector
        A rollout collector whose network has the method `flatten`.
    """

    def __init__(self, collector: Any) -> None:
        self._collector = collector
        self._simulator = collector.simulator
        self.num_envs: int = collector.simulator.num_envs

    @torch.no_grad()
    def observe(self) -> tuple[Floats, Bools]:
        """Return observations (B, F) and action masks (B, A)."""
        features = self._collector.network.featurize(from_simulator(self._collector.simulator))
        return self._collector.network.flatten(features).numpy(), features.mask.numpy()

    def step(self, actions: NDArray[np.int64]) -> tuple[Floats, Bools]:
        """Apply actions (B,); return rewards (B,) and whether each episode ended (B,)."""
        simulator = self._simulator
        reward = simulator.step(torch.from_numpy(actions))
        over = ~simulator.playing
        simulator.restart(torch.randint(len(simulator.instances), (self.num_envs,)))
        return reward.float().numpy(), over.numpy()


class GymnasiumEnvs:
    """Our Gymnasium environment `num_envs` times, with flat observations."""

    def __init__(self, instances: Sequence[Instance], num_envs: int) -> None:
        from bench.simulator.gym import SchedulingEnv

        self.num_envs = num_envs
        self._envs = [SchedulingEnv(instances, shaped=True) for _ in range(num_envs)]
        self._observations = [env.reset(seed=b)[0] for b, env in enumerate(self._envs)]

    def observe(self) -> tuple[Floats, Bools]:
        """Return observations (B, F) and action masks (B, A)."""
        vectors = [
            np.concatenate([seen[key].ravel() for key in seen if key != "action_mask"])
            for seen in self._observations
        ]
        masks = np.stack([seen["action_mask"] for seen in self._observations])
        features = np.clip(np.stack(vectors) / 100.0, -10.0, 10.0)
        return features.astype(np.float32), masks.astype(np.bool_)

    def step(self, actions: NDArray[np.int64]) -> tuple[Floats, Bools]:
        """Apply actions (B,); return rewards (B,) and whether each episode ended (B,)."""
        reward = np.zeros(self.num_envs, dtype=np.float32)
        over = np.zeros(self.num_envs, dtype=np.bool_)
        for b, env in enumerate(self._envs):
            self._observations[b], reward[b], terminated, truncated, _ = env.step(actions[b])
            over[b] = terminated or truncated
            if over[b]:
                self._observations[b], _ = env.reset()
        return reward, over


# -- in the style of CleanRL ---------------------------------------------------------------------


class Agent(nn.Module):
    """Actor and critic of CleanRL's ppo.py (Huang et al. 2022, JMLR 23), with action masks.

    The masked categorical distribution is that of CleanRL's variants with masks.
    """

    def __init__(self, inputs: int, actions: int, width: int) -> None:
        super().__init__()
        self.critic = _perceptron(inputs, width, 1, 1.0)
        self.actor = _perceptron(inputs, width, actions, 0.01)

    def forward(
        self, x: Tensor, mask: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return actions, their log-probabilities, entropies and values, each (B,).

        Parameters
        ----------
        x, mask
            Observations (B, F) and action masks (B, A).
        action
            Actions (B,) to evaluate; None: draw them.
        """
        logits = torch.where(mask, self.actor(x), torch.tensor(-1e8))
        # torch.distributions has no type annotations
        policy: Any = torch.distributions.Categorical(logits=logits)
        action = policy.sample() if action is None else action
        entropy = -(torch.where(mask, policy.logits * policy.probs, torch.tensor(0.0))).sum(-1)
        return action, policy.log_prob(action), entropy, self.critic(x).squeeze(-1)


def _perceptron(inputs: int, width: int, outputs: int, gain: float) -> nn.Sequential:
    """Return two hidden layers with tanh and a last layer with initial weights of scale `gain`."""
    layers: list[nn.Module] = []
    for n, m, std in ((inputs, width, 2**0.5), (width, width, 2**0.5), (width, outputs, gain)):
        layer = nn.Linear(n, m)
        nn.init.orthogonal_(layer.weight, std)
        nn.init.constant_(layer.bias, 0.0)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class CleanRLPPO:
    """CleanRL's ppo.py in plain torch: S steps in B environments, then epochs over minibatches.

    Parameters
    ----------
    envs
        The B environments.
    steps
        S, decisions per environment and rollout.
    minibatch, epochs
        Of an update.
    width
        Units of each hidden layer.
    """

    def __init__(
        self, envs: VectorEnvs, steps: int, minibatch: int, epochs: int, width: int = 64
    ) -> None:
        self.envs = envs
        self.steps = steps
        self.minibatch = minibatch
        self.epochs = epochs
        self.obs, self.mask = map(torch.from_numpy, envs.observe())
        self.done = torch.zeros(envs.num_envs)
        self.agent = Agent(self.obs.shape[1], self.mask.shape[1], width)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=2.5e-4, eps=1e-5)
        shape = (steps, envs.num_envs)
        self.stored = {
            "obs": torch.zeros(*shape, self.obs.shape[1]),
            "mask": torch.zeros(*shape, self.mask.shape[1], dtype=torch.bool),
            "action": torch.zeros(*shape, dtype=torch.int64),
            **{name: torch.zeros(*shape) for name in ("logp", "reward", "done", "value")},
        }

    def train_iteration(self) -> None:
        """Collect one rollout and update with it."""
        self.update(*self.collect())

    @torch.no_grad()
    def collect(self) -> tuple[Tensor, Tensor]:
        """Store one rollout; return its advantages and returns, each (S, B)."""
        stored = self.stored
        for step in range(self.steps):
            stored["obs"][step] = self.obs
            stored["mask"][step] = self.mask
            stored["done"][step] = self.done
            action, logp, _, value = self.agent(self.obs, self.mask)
            stored["action"][step] = action
            stored["logp"][step] = logp
            stored["value"][step] = value
            reward, over = self.envs.step(action.numpy())
            stored["reward"][step] = torch.from_numpy(reward)
            self.done = torch.from_numpy(over).float()
            self.obs, self.mask = map(torch.from_numpy, self.envs.observe())
        last_value = self.agent(self.obs, self.mask)[3]
        advantage = torch.zeros(())
        advantages = torch.zeros_like(stored["reward"])
        for t in reversed(range(self.steps)):
            is_last = t == self.steps - 1
            continues = 1.0 - (self.done if is_last else stored["done"][t + 1])
            next_value = last_value if is_last else stored["value"][t + 1]
            delta = stored["reward"][t] + next_value * continues - stored["value"][t]
            advantage = delta + 0.95 * continues * advantage  # gamma = 1, lambda = 0.95
            advantages[t] = advantage
        return advantages, advantages + stored["value"]

    def update(self, advantages: Tensor, returns: Tensor) -> None:
        """Train `epochs` times on the stored rollout with advantages and returns, each (S, B)."""
        flat = {name: column.flatten(0, 1) for name, column in self.stored.items()}
        advantages = advantages.flatten()
        returns = returns.flatten()
        order = np.arange(len(returns))
        for _ in range(self.epochs):
            np.random.default_rng().shuffle(order)
            for start in range(0, len(order), self.minibatch):
                rows = order[start : start + self.minibatch]
                batch = {name: column[rows] for name, column in flat.items()}
                loss: Any = self.loss(batch, advantages[rows], returns[rows])
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), 0.5)
                self.optimizer.step()

    def loss(self, batch: dict[str, Tensor], advantage: Tensor, returns: Tensor) -> Tensor:
        """Return the clipped policy loss, clipped value loss and entropy bonus as one scalar."""
        _, logp, entropy, value = self.agent(batch["obs"], batch["mask"], batch["action"])
        ratio = (logp - batch["logp"]).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
        clipped = batch["value"] + (value - batch["value"]).clamp(-0.2, 0.2)
        error = torch.max((value - returns) ** 2, (clipped - returns) ** 2)
        loss: Tensor = policy_loss - 0.01 * entropy.mean() + 0.5 * 0.5 * error.mean()
        return loss


# -- Stable-Baselines3-contrib -------------------------------------------------------------------


class MaskablePPO:
    """MaskablePPO of sb3-contrib (Huang & Ontañón 2020, arXiv:2006.14171).

    The parameters are those of `CleanRLPPO`.
    """

    def __init__(
        self, envs: VectorEnvs, steps: int, minibatch: int, epochs: int, width: int = 64
    ) -> None:
        import sb3_contrib

        self.decisions = steps * envs.num_envs
        self.model = sb3_contrib.MaskablePPO(
            "MlpPolicy",
            make_vec_env(envs),
            n_steps=steps,
            batch_size=minibatch,
            n_epochs=epochs,
            device="cpu",
            seed=0,
            policy_kwargs={"net_arch": [width, width]},
        )

    def train_iteration(self) -> None:
        """Collect one rollout and update with it."""
        self.model.learn(self.decisions, reset_num_timesteps=False)


def make_vec_env(envs: VectorEnvs) -> Any:
    """Return `envs` as a VecEnv of Stable-Baselines3."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    class VectorEnvsAdapter(VecEnv):  # type: ignore[misc]  # sb3 is optional and may be absent
        def reset(self) -> Any:
            self.observations, self.masks = envs.observe()
            return self.observations

        def step_async(self, actions: Any) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            reward, over = envs.step(self.actions)
            last = self.observations
            self.observations, self.masks = envs.observe()
            infos = [
                {"terminal_observation": last[b]} if ended else {}
                for b, ended in enumerate(over.tolist())
            ]
            return self.observations, reward, over, infos

        def env_method(
            self, method_name: str, *args: Any, indices: Any = None, **options: Any
        ) -> Any:
            return list(self.masks)

        def has_attr(self, attr_name: str) -> bool:
            return attr_name == "action_masks"

        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            return [None] * self.num_envs

        def set_attr(self, *args: Any, **options: Any) -> None: ...

        def env_is_wrapped(self, *args: Any, **options: Any) -> Any:
            return [False] * self.num_envs

        def close(self) -> None: ...

    observations, masks = envs.observe()
    return VectorEnvsAdapter(
        envs.num_envs,
        spaces.Box(-100.0, 100.0, observations.shape[1:], np.float32),
        spaces.Discrete(masks.shape[1]),
    )
