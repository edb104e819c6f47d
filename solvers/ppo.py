"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), readable from top to bottom.

Details that matter, after Huang et al. 2022, "The 37 implementation details of PPO": advantages normalised per minibatch,
orthogonal initialisation, Adam with eps 1e-5, learning rate and entropy bonus annealed, gradient norm clipped, an update
stopped early when the policy has moved too far (KL). The critic predicts in units of the visible load, and its errors are
divided by the spread of the returns. The policy that is validated and kept is a running average of the networks (Polyak).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.contracts import Budget, Dataset, Log, UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import Simulator, knows_ends
from bench.simulator.tables import INSTANCE, N_TASKS
from solvers.advantages import gae
from solvers.features import Features, features, from_simulator
from solvers.network import PairNetwork
from solvers.policy import BestOf, NetworkPolicy, choose_device, load_policy, play, sample, save_atomically


class Look(NamedTuple):
    """One decision in each of B environments, and what the network says of it."""

    seen: Features
    logits: Tensor  # (B, K * M + 1)
    value: Tensor  # (B,) predicted return
    unit: Tensor  # (B,) what one unit of the network's value is worth in return


@dataclass(frozen=True)
class Rollout:
    """S steps in B environments, flattened to S * B decisions where they are trained on."""

    seen: Features  # each (S * B, ...)
    action: Tensor  # (S * B,)
    logp: Tensor  # (S * B,)
    advantage: Tensor  # (S * B,)
    target: Tensor  # (S * B,) the return the critic should predict
    unit: Tensor  # (S * B,) what one unit of the network's value is worth in return


class PPO:
    """Learns a policy that scores (task, agent) pairs; see `conf/solver/ppo.yaml` for what each argument means.

    Raises:
        UserError: for a checkpoint that cannot be read, `device=cuda` without CUDA, or a loss that is not finite.
    """

    def __init__(
        self,
        device: str = "auto",
        checkpoint: str | None = None,
        samples: int = 1,
        width: int = 32,
        window: int = 64,
        envs: int = 256,
        steps: int = 32,
        epochs: int = 3,
        minibatch: int = 512,
        lr: float = 1.5e-3,
        shaped: bool = True,
        gamma: float = 1.0,
        lam: float = 0.98,
        clip: float = 0.2,
        entropy: float = 0.005,
        value_weight: float = 0.5,
        max_grad_norm: float = 0.5,
        max_kl: float = 0.03,
        averaging: float = 0.9,
        validate_every: int = 5,
        save_seconds: float = 15.0,
        threads: int = 1,
    ) -> None:
        self.device, self.checkpoint, self.samples, self.threads = choose_device(device), checkpoint, samples, threads
        self.width, self.window, self.envs, self.steps = width, window, envs, steps
        self.epochs, self.minibatch, self.lr, self.gamma, self.lam = epochs, minibatch, lr, gamma, lam
        self.clip, self.entropy, self.value_weight = clip, entropy, value_weight
        self.max_grad_norm, self.max_kl = max_grad_norm, max_kl
        counts = {"samples": samples, "width": width, "window": window, "envs": envs, "steps": steps, "epochs": epochs}
        for name, value in (counts | {"minibatch": minibatch, "validate_every": validate_every, "threads": threads}).items():
            if value < 1:
                raise UserError(f"solver.{name}: at least 1 is needed, got {value}")
        self.averaging = averaging
        self.shaped, self.validate_every, self.save_seconds = shaped, validate_every, save_seconds

    def fit(
        self, data: Dataset, setting: Setting, budget: Budget, rng: np.random.Generator, log: Log
    ) -> NetworkPolicy | BestOf:
        """Train for `budget.decisions` and keep the network that did best on the validation split.

        With `checkpoint` nothing is trained. A killed run continues from `log.folder`, on the CPU to the same network.
        Where the future is known, `samples` > 1 decides by the best of as many episodes.
        """
        torch.set_num_threads(min(self.threads, int(budget.threads)))
        policy = (
            self._train(data, setting, budget, rng, log)
            if self.checkpoint is None
            else load_policy(self.checkpoint, self.device)
        )
        return BestOf(policy, self.samples) if self.samples > 1 and setting.observe == "all" else policy

    def _train(self, data: Dataset, setting: Setting, budget: Budget, rng: np.random.Generator, log: Log) -> NetworkPolicy:
        train, validation = (list(data.instances(split)) for split in ("train", "validation"))
        if not train or not validation:
            raise UserError("dataset: PPO needs a train and a validation split, and one of them is empty")
        run = Training(self, train, validation, setting, budget, rng, self.device)
        run.resume(log.folder / "training.pt")
        saved = time.monotonic()
        while run.iteration < run.iterations:
            values = run.iterate()
            log.metrics(run.decisions, values)
            log.progress(run.decisions, run.iterations * run.batch, f"validation {run.best:.4f}")
            if time.monotonic() - saved > self.save_seconds or run.iteration == run.iterations:
                run.save(log.folder / "training.pt")
                saved = time.monotonic()
        run.network.load_state_dict(run.best_network)
        policy = NetworkPolicy(run.network, self.window, self.device)
        policy.save(log.folder / "policy.pt")
        return policy


class Training:
    """All that changes while PPO trains, so that it can be saved and continued."""

    def __init__(
        self,
        ppo: PPO,
        train: list[Instance],
        validation: list[Instance],
        setting: Setting,
        budget: Budget,
        rng: np.random.Generator,
        device: torch.device,
    ) -> None:
        self.ppo, self.device, self.rng = ppo, device, rng
        self.window = min(ppo.window, max(instance.n_tasks for instance in train))
        shaped = ppo.shaped and setting.observe == "all" and all(knows_ends(instance) for instance in train)
        self.simulator = Simulator(train, setting, n_envs=ppo.envs, window=self.window, shaped=shaped)
        self.trials = Simulator(validation, setting, window=ppo.window)
        self.totals = np.zeros(ppo.envs)  # returns of the episodes now played
        self.generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))
        self.network = PairNetwork(ppo.width).to(device)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(ppo.averaging))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=ppo.lr, eps=1e-5)
        self.batch = ppo.envs * ppo.steps
        self.iterations = max(1, math.ceil(budget.decisions / self.batch))
        self.iteration = 0
        self.spread = 0.0  # running mean of the returns' standard deviation
        self.best, self.best_network = -math.inf, self._copy()
        everyone = np.arange(ppo.envs)
        self.simulator.reset(everyone, rng.integers(len(train), size=ppo.envs))

    @property
    def decisions(self) -> int:
        """Decisions played so far."""
        return self.iteration * self.batch

    def iterate(self) -> dict[str, float]:
        """One rollout and one update; returns what is worth logging."""
        began = time.perf_counter()
        left = 1.0 - self.iteration / self.iterations
        for group in self.optimizer.param_groups:
            group["lr"] = self.ppo.lr * left
        rollout, episodes = self.roll_out()
        played = time.perf_counter()
        values = self.update(rollout, self.ppo.entropy * left)
        self.average.update_parameters(self.network)
        self.iteration += 1
        last = self.iteration == self.iterations
        if self.iteration % self.ppo.validate_every == 0 or last:
            result = float(play(self.average.module, self.trials, self.device).mean())
            values["validation/return"] = result
            if result > self.best:
                self.best, self.best_network = result, self._copy()
        if len(episodes):
            values["charts/episodic_return"] = float(np.mean(episodes))
        spent = time.perf_counter() - began
        return values | {"charts/SPS": self.batch / spent, "charts/rollout_share": (played - began) / spent}

    # -- playing -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def roll_out(self) -> tuple[Rollout, list[float]]:
        """S steps in B environments by the current policy, and the returns of the episodes that ended on the way."""
        shape = (self.ppo.steps, self.ppo.envs)
        reward, next_value = (torch.zeros(shape, device=self.device) for _ in range(2))
        terminated, truncated = (torch.zeros(shape, dtype=torch.bool, device=self.device) for _ in range(2))
        looks, actions, episodes = [self._look()], [], []
        for step in range(self.ppo.steps):
            action = sample(looks[-1].logits, self.generator)
            paid = self.simulator.step(action.cpu().numpy())
            ended, cut = self.simulator.terminated, self.simulator.truncated
            self.totals += paid
            over = np.flatnonzero(ended | cut)
            episodes += self.totals[over].tolist()
            self.totals[over] = 0.0
            before = self._look().value if cut.any() else None  # of the states that were cut, before they are reset
            self.simulator.reset(over, self.rng.integers(len(self.simulator.instances), size=len(over)))
            actions.append(action)
            looks.append(self._look())
            for column, entry in ((reward, paid), (terminated, ended), (truncated, cut)):
                column[step] = torch.from_numpy(np.array(entry)).to(self.device)
            after = looks[-1].value
            next_value[step] = after if before is None else torch.where(truncated[step], before, after)
        looks.pop()
        action, value = torch.cat(actions), torch.stack([look.value for look in looks])
        advantage = gae(reward, value, next_value, terminated, truncated, self.ppo.gamma, self.ppo.lam)
        rollout = Rollout(
            seen=Features(*(torch.cat(column) for column in zip(*(look.seen for look in looks), strict=True))),
            action=action,
            logp=torch.cat([look.logits for look in looks]).log_softmax(dim=1).gather(1, action[:, None])[:, 0],
            advantage=advantage.flatten(),
            target=(advantage + value).flatten(),
            unit=torch.cat([look.unit for look in looks]),
        )
        return rollout, episodes

    def _look(self) -> Look:
        """The current decisions of all environments through the network's eyes."""
        seen = features(from_simulator(self.simulator, self.device))
        logits, relative = self.network(seen)
        unit = self._unit(seen)
        return Look(seen, logits, relative * unit, unit)

    def _unit(self, seen: Features) -> Tensor:
        """(B,) return that the visible load stands for: only the critic, which no decision hears of, may use the scale."""
        instance = self.simulator.state.env[:, INSTANCE]
        scale = self.simulator.scale[instance]
        objective = self.simulator.setting.objective
        if objective == "bounded_slowdown":
            scale = scale * self.simulator.tables.size[instance, N_TASKS]
        column = {"makespan": 1, "bounded_slowdown": 2}.get(objective, 0)
        return seen.load[:, column] / torch.from_numpy(scale).float().to(self.device)

    # -- learning ------------------------------------------------------------------------------------------------

    def update(self, rollout: Rollout, entropy_weight: float) -> dict[str, float]:
        """Some epochs of clipped updates on one rollout.

        Raises:
            UserError: where the loss is not finite; the last good state stays on disk.
        """
        spread = float(rollout.target.std()) + 1e-8
        self.spread = spread if self.spread == 0.0 else 0.95 * self.spread + 0.05 * spread
        logs: dict[str, float] = {}
        epoch = 0
        while epoch < self.ppo.epochs and logs.get("losses/approx_kl", 0.0) <= self.ppo.max_kl:
            epoch += 1
            for rows in self._minibatches(len(rollout.action)):
                loss, logs = self.loss(rollout, rows, entropy_weight)
                if not torch.isfinite(loss):
                    raise UserError(
                        f"ppo: the loss became {loss.item()} at decision {self.decisions}; lower solver.lr and start again"
                    )
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.ppo.max_grad_norm)
                self.optimizer.step()
        return logs | {"charts/epochs": float(epoch), "charts/learning_rate": self.optimizer.param_groups[0]["lr"]}

    def loss(self, rollout: Rollout, rows: Tensor, entropy_weight: float) -> tuple[Tensor, dict[str, float]]:
        """The clipped surrogate (eq. 7 and 9 of the paper) on the decisions `rows`."""
        logits, relative = self.network(Features(*(column[rows] for column in rollout.seen)))
        logp_all = logits.log_softmax(dim=1)
        logp = logp_all.gather(1, rollout.action[rows, None])[:, 0]
        change = logp - rollout.logp[rows]
        ratio = change.exp()
        advantage = rollout.advantage[rows]
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        policy = -torch.minimum(ratio * advantage, ratio.clamp(1 - self.ppo.clip, 1 + self.ppo.clip) * advantage).mean()
        error = (relative * rollout.unit[rows] - rollout.target[rows]) / self.spread
        value = 0.5 * error.square().mean()
        entropy = -(logp_all.exp() * logp_all.clamp(min=-1e9)).sum(dim=1).mean()
        loss = policy + self.ppo.value_weight * value - entropy_weight * entropy
        with torch.no_grad():
            logs = {
                "losses/policy": policy.item(),
                "losses/value": value.item(),
                "losses/entropy": entropy.item(),
                "losses/approx_kl": ((ratio - 1) - change).mean().item(),
                "losses/clip_fraction": ((ratio - 1).abs() > self.ppo.clip).float().mean().item(),
            }
        return loss, logs

    def _minibatches(self, n: int) -> Iterator[Tensor]:
        order = torch.randperm(n, generator=self.generator, device=self.device)
        yield from order.split(self.ppo.minibatch)

    # -- saving --------------------------------------------------------------------------------------------------

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.average.module.state_dict().items()}

    def save(self, path: Path) -> None:
        """All that is needed to go on as if nothing had happened."""
        state: dict[str, Any] = {name: getattr(self, name) for name in ("iteration", "spread", "best", "best_network")}
        state |= {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": self.rng.bit_generator.state,
            "environments": [torch.from_numpy(array) for array in (self.totals, *self.simulator.state)],
        }
        save_atomically(path, state)

    def resume(self, path: Path) -> None:
        """Continue from `save`'s file, where there is one."""
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.rng.bit_generator.state = state["rng"]
        arrays: tuple[np.ndarray, ...] = (self.totals, *self.simulator.state)
        for array, saved in zip(arrays, state["environments"], strict=True):
            array[...] = saved.cpu().numpy()
        for name in ("iteration", "spread", "best", "best_network"):
            setattr(self, name, state[name])
