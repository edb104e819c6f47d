"""PPO as others write it, to compare with: a loop in the manner of CleanRL, and MaskablePPO of Stable-Baselines3-contrib.

Each has the network of ours (two perceptrons with tanh, policy and value), the same instances and epochs. `turn` plays and
updates once. Their environments are many at once behind one small interface: `Batched`, our simulator and the row of numbers
that our network sees, and `Gymnasium`, one Python environment after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.instance import Instance

Arrays = tuple[NDArray[np.float32], NDArray[np.bool_]]


class Environments(Protocol):
    """B environments that start again by themselves."""

    n: int

    def observe(self) -> Arrays:
        """Observations (B, F) and masks (B, A) of the current decisions."""

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rewards (B,), and where an episode ended (B,)."""


class Batched:
    """The environments of one of our players, seen as its network sees them."""

    def __init__(self, player: Any) -> None:
        self._player, self._simulator, self.n = player, player.simulator, player.simulator.n_envs

    @torch.no_grad()
    def observe(self) -> Arrays:
        """Observations (B, F) and masks (B, A)."""
        seen = self._player.see()
        return self._player.network.row(seen).numpy(), seen.mask.numpy()

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rewards (B,), and where an episode ended (B,)."""
        reward = self._simulator.step(torch.from_numpy(actions))
        over = ~self._simulator.playing
        self._simulator.restart(torch.randint(len(self._simulator.instances), (self.n,)))
        return reward.float().numpy(), over.numpy()


class Gymnasium:
    """Our Gymnasium environment `n` times, observations flattened."""

    def __init__(self, instances: Sequence[Instance], n: int) -> None:
        from bench.simulator.gym import SchedulingEnv

        self.n, self._all = n, [SchedulingEnv(instances, shaped=True) for _ in range(n)]
        self._seen = [environment.reset(seed=b)[0] for b, environment in enumerate(self._all)]

    def observe(self) -> Arrays:
        """Observations (B, F) and masks (B, A)."""
        rows = [
            np.concatenate([seen[key].ravel() for key in seen if key != "action_mask"])
            for seen in self._seen
        ]
        numbers = np.clip(np.stack(rows) / 100.0, -10.0, 10.0)
        return numbers.astype(np.float32), np.stack(
            [seen["action_mask"] for seen in self._seen]
        ).astype(bool)

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rewards (B,), and where an episode ended (B,)."""
        reward, over = np.zeros(self.n, dtype=np.float32), np.zeros(self.n, dtype=bool)
        for b, environment in enumerate(self._all):
            self._seen[b], reward[b], terminated, truncated, _ = environment.step(actions[b])
            over[b] = terminated or truncated
            if over[b]:
                self._seen[b], _ = environment.reset()
        return reward, over


# -- in the manner of CleanRL ------------------------------------------------------------------------------------


class Agent(nn.Module):
    """Actor and critic of CleanRL's ppo.py (Huang et al. 2022, JMLR 23), with the masked categorical of its mask variants."""

    def __init__(self, inputs: int, actions: int, width: int) -> None:
        super().__init__()
        self.critic = _perceptron(inputs, width, 1, 1.0)
        self.actor = _perceptron(inputs, width, actions, 0.01)

    def forward(
        self, x: Tensor, mask: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Action (drawn unless given), its log-probability, entropy, value; each (B,)."""
        logits = torch.where(mask, self.actor(x), torch.tensor(-1e8))
        chances = torch.distributions.Categorical(logits=logits)
        action = chances.sample() if action is None else action
        spread = -(torch.where(mask, chances.logits * chances.probs, torch.tensor(0.0))).sum(-1)
        return action, chances.log_prob(action), spread, self.critic(x).squeeze(-1)


def _perceptron(inputs: int, width: int, outputs: int, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m, std in ((inputs, width, 2**0.5), (width, width, 2**0.5), (width, outputs, gain)):
        layer = nn.Linear(n, m)
        nn.init.orthogonal_(layer.weight, std)
        nn.init.constant_(layer.bias, 0.0)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Loop:
    """CleanRL's ppo.py: storage of S steps in B environments, then `epochs` passes in minibatches, all in plain torch."""

    def __init__(
        self, environments: Environments, steps: int, minibatch: int, epochs: int, width: int = 64
    ) -> None:
        self.environments, self.steps, self.minibatch, self.epochs = (
            environments,
            steps,
            minibatch,
            epochs,
        )
        self.obs, self.mask = map(torch.from_numpy, environments.observe())
        self.done = torch.zeros(environments.n)
        self.agent = Agent(self.obs.shape[1], self.mask.shape[1], width)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=2.5e-4, eps=1e-5)
        s, b = steps, environments.n
        self.stored = {
            "obs": torch.zeros(s, b, self.obs.shape[1]), "mask": torch.zeros(s, b, self.mask.shape[1], dtype=torch.bool),
            "action": torch.zeros(s, b, dtype=torch.int64),
            **{name: torch.zeros(s, b) for name in ("logp", "reward", "done", "value")},
        }  # fmt: skip

    def turn(self) -> None:
        """Play and update once."""
        self.update(*self.play())

    @torch.no_grad()
    def play(self) -> tuple[Tensor, Tensor]:
        """Advantages and returns (S, B) of `steps` decisions in every environment."""
        stored = self.stored
        for step in range(self.steps):
            stored["obs"][step], stored["mask"][step], stored["done"][step] = (
                self.obs,
                self.mask,
                self.done,
            )
            action, logp, _, value = self.agent(self.obs, self.mask)
            stored["action"][step], stored["logp"][step], stored["value"][step] = (
                action,
                logp,
                value,
            )
            reward, over = self.environments.step(action.numpy())
            stored["reward"][step] = torch.from_numpy(reward)
            self.done = torch.from_numpy(over).float()
            self.obs, self.mask = map(torch.from_numpy, self.environments.observe())
        following, carry, advantages = (
            self.agent(self.obs, self.mask)[3],
            torch.zeros(()),
            torch.zeros_like(stored["reward"]),
        )
        for t in reversed(range(self.steps)):
            on = 1.0 - (self.done if t == self.steps - 1 else stored["done"][t + 1])
            value = following if t == self.steps - 1 else stored["value"][t + 1]
            delta = stored["reward"][t] + value * on - stored["value"][t]
            advantages[t] = carry = delta + 0.95 * on * carry
        return advantages, advantages + stored["value"]

    def update(self, advantages: Tensor, returns: Tensor) -> None:
        """`epochs` passes over the rollout."""
        flat = {name: column.flatten(0, 1) for name, column in self.stored.items()}
        advantages, returns = advantages.flatten(), returns.flatten()
        order = np.arange(len(returns))
        for _ in range(self.epochs):
            np.random.default_rng().shuffle(order)
            for start in range(0, len(order), self.minibatch):
                rows = order[start : start + self.minibatch]
                loss = self.loss(
                    {name: column[rows] for name, column in flat.items()},
                    advantages[rows],
                    returns[rows],
                )
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), 0.5)
                self.optimizer.step()

    def loss(self, of: dict[str, Tensor], advantage: Tensor, returns: Tensor) -> Tensor:
        """Clipped surrogate, clipped value loss, entropy."""
        _, logp, entropy, value = self.agent(of["obs"], of["mask"], of["action"])
        ratio = (logp - of["logp"]).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
        held = of["value"] + (value - of["value"]).clamp(-0.2, 0.2)
        error = torch.max((value - returns) ** 2, (held - returns) ** 2)
        return policy - 0.01 * entropy.mean() + 0.5 * 0.5 * error.mean()


# -- Stable-Baselines3-contrib -----------------------------------------------------------------------------------


class Maskable:
    """MaskablePPO (Huang & Ontañón 2020, arXiv:2006.14171) over a VecEnv."""

    def __init__(
        self, environments: Environments, steps: int, minibatch: int, epochs: int, width: int = 64
    ) -> None:
        from sb3_contrib import MaskablePPO

        self.decisions = steps * environments.n
        self.model = MaskablePPO(
            "MlpPolicy", vec_env(environments), n_steps=steps, batch_size=minibatch, n_epochs=epochs, device="cpu", seed=0,
            policy_kwargs={"net_arch": [width, width]},
        )  # fmt: skip

    def turn(self) -> None:
        """Play and update once."""
        self.model.learn(self.decisions, reset_num_timesteps=False)


def vec_env(environments: Environments) -> Any:
    """`environments` as Stable-Baselines3 wants them."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    class Vector(VecEnv):
        def reset(self) -> Any:
            self.seen, self.masks = environments.observe()
            return self.seen

        def step_async(self, actions: Any) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            reward, over = environments.step(self.actions)
            last = self.seen
            self.seen, self.masks = environments.observe()
            infos = [
                {"terminal_observation": last[b]} if ended else {}
                for b, ended in enumerate(over.tolist())
            ]
            return self.seen, reward, over, infos

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

    seen, mask = environments.observe()
    return Vector(
        environments.n,
        spaces.Box(-100.0, 100.0, seen.shape[1:], np.float32),
        spaces.Discrete(mask.shape[1]),
    )
