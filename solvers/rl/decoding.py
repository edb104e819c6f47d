"""Planning with a trained network where the future is known: many episodes are played, and the best one is the plan.

`greedy` plays the best actions. `sample` adds episodes drawn from the policy (Bello et al. 2017, arXiv:1611.09940; Kool et al.
2019, arXiv:1803.08475). `multistart` forces the first decision to each of the likeliest ones, then plays the best actions
(POMO, Kwon et al. 2020, arXiv:2010.16011), and draws from the policy where there are more rollouts than starts. `beam` keeps
the most promising partial episodes (`solvers.rl.beam`). The greedy episode always competes: nothing here is worse than it.

Memory is bounded, because episodes play in chunks. Chunks do not change what is played: episode e draws its action at step s
by number e of the stream seeded by (seed, s). So the episodes of `sample` with fewer rollouts are among those with more.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Budget, Result
from bench.instance import Instance
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator import knows_ends
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.policy import NetworkPolicy
from solvers.rl.beam import EXPANSION, Beam
from solvers.rl.rollouts import to_the_end

DECODINGS = ("greedy", "sample", "multistart", "beam")
GROWTH = 8  # a chunk is at most so many times what was played before
PAIRS = (
    2**19
)  # B * K * M that play together at most (one environment at least); about 1 kB each while the network looks


class Planner:
    """The best of `rollouts` episodes (for `beam`: partial episodes kept, and one) of a policy in the true simulator.

    The greedy episode is played first, and to its end. Then chunks grow as far as `budget.seconds` seem to allow, and no step
    of a beam is begun once they are spent. `Result.info`:

    | key | meaning |
    |---|---|
    | decoding, rollouts, temperature | as asked for |
    | played | episodes played; for `beam` its width, smaller where memory binds, and the greedy one |
    | best | episode that won, 0 = the greedy one |
    | decisions, seconds | made and taken, in all environments together |
    | objective | of the schedule, minimised; missing where every episode dead-ends |
    """

    clairvoyant = True

    def __init__(
        self,
        policy: NetworkPolicy,
        decoding: str = "sample",
        rollouts: int = 128,
        temperature: float = 1.0,
        pairs: int = PAIRS,
    ) -> None:
        """`temperature`: of the policy that episodes are drawn from, 1 = as it was learnt. `pairs`: how much plays together.

        Raises:
            ValueError: for an unknown decoding or less than one rollout.
        """
        if decoding not in DECODINGS or rollouts < 1:
            raise ValueError(
                f"decoding: {rollouts} of {decoding!r}, must be at least 1 of {', '.join(DECODINGS)}"
            )
        self.policy, self.decoding, self.temperature, self.pairs = (
            policy,
            decoding,
            temperature,
            pairs,
        )
        self.rollouts = 1 if decoding == "greedy" else rollouts

    @torch.no_grad()
    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """The best episode's schedule; `infeasible` where every episode dead-ends (`budget` sharing)."""
        window, device = min(self.policy.window, instance.n_tasks), self.policy.device
        room = max(1, self.pairs // (window * instance.n_agents))  # environments
        search, episodes = Search(budget.seconds), Episodes(self, int(rng.integers(2**62)))
        episodes.play(TensorSimulator([instance], setting, 1, window, device=device), 0, search)
        if self.decoding == "beam" and self.rollouts > 1:
            width = min(self.rollouts - 1, max(1, room // EXPANSION))
            shaped = self.policy.shaped and knows_ends(instance)  # as the critic learned it
            simulator = TensorSimulator(
                [instance], setting, EXPANSION * width, window, shaped, device=device
            )
            Beam(self.policy.network, simulator, width, search).run()
        while self.decoding != "beam" and search.played < self.rollouts and not search.late:
            first = search.played
            count = max(
                1,
                min(
                    room,
                    self.rollouts - first,
                    GROWTH * first,
                    int(first * search.left / search.spent),
                ),
            )
            episodes.play(
                TensorSimulator([instance], setting, count, window, device=device), first, search
            )
        return search.result(
            {"decoding": self.decoding, "rollouts": self.rollouts, "temperature": self.temperature}
        )


class Search:
    """The best episode so far and what the search has cost."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: after which the search is late."""
        self.began, self.seconds = time.perf_counter(), seconds
        self.value, self.best, self.dead_end = (
            -np.inf,
            0,
            True,
        )  # return, episode, and whether it left tasks out
        self.schedule = Schedule.empty()
        self.played = self.decisions = 0
        self.points: list[tuple[float, float, float]] = []  # (seconds, objective, bound)

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return max(0.0, self.seconds - self.spent)

    @property
    def late(self) -> bool:
        """The budget is spent."""
        return self.spent > self.seconds

    def offer(self, simulator: TensorSimulator, returns: Tensor, first: int = 0) -> None:
        """Finished environments of one instance with `returns` (B,) float64, -inf elsewhere; b played episode `first` + b."""
        b = int(returns.argmax())  # the first of equals
        value = float(returns[b])
        if value <= self.value:
            return
        host = simulator.host()
        self.value, self.best, self.dead_end, self.schedule = (
            value,
            first + b,
            host.dead_end(b),
            host.schedule(b),
        )
        if not self.dead_end:
            self.points.append((self.spent, -value * float(host.scale[0]), -np.inf))

    def result(self, asked: dict[str, str | float]) -> Result:
        """The best episode and the account."""
        objective = None if self.dead_end else self.points[-1][1]
        account = {
            "played": self.played,
            "best": self.best,
            "decisions": self.decisions,
            "objective": objective,
        }
        info = asked | account | {"seconds": self.spent}
        return Result(
            self.schedule,
            "infeasible" if self.dead_end else "feasible",
            trajectory=tuple(self.points),
            info=info,
        )


class Episodes:
    """Whole episodes: the first ones by the best actions (of `multistart` one per start), the others drawn from the policy."""

    def __init__(self, planner: Planner, seed: int) -> None:
        self.network, self.rollouts, self.temperature = (
            planner.policy.network,
            planner.rollouts,
            planner.temperature,
        )
        self.multistart, self.seed = planner.decoding == "multistart", seed

    def play(self, simulator: TensorSimulator, first: int, search: Search) -> None:
        """Episodes `first` to `first` + B - 1, one in each fresh environment, to their ends."""
        episode = torch.arange(first, first + simulator.n_envs, device=simulator.device)  # (B,)
        total = torch.zeros(simulator.n_envs, dtype=torch.float64, device=simulator.device)
        decisions = torch.zeros((), dtype=torch.int64, device=simulator.device)
        starts = torch.zeros(1)
        for step in to_the_end(simulator):
            logits, _ = self.network(self.network.see(from_simulator(simulator)))
            if step == 0:
                starts = self.starts(logits[0])
            action = logits.argmax(dim=1)
            if first + simulator.n_envs > len(starts):  # some are drawn
                action = torch.where(episode < len(starts), action, self.drawn(logits, step, first))
            if step == 0 and self.multistart:
                action = starts[episode % len(starts)]
            decisions += simulator.playing.sum()
            total += simulator.step(torch.where(simulator.playing, action, LEAVE))
        search.played += simulator.n_envs
        search.decisions += int(decisions)
        search.offer(simulator, total, first)

    def starts(self, logits: Tensor) -> Tensor:
        """The likeliest first actions, best first: one, for `multistart` as many as there are rollouts and legal actions."""
        legal = int(torch.isfinite(logits).sum()) if self.multistart else 1
        return logits.argsort(descending=True, stable=True)[: max(1, min(self.rollouts, legal))]

    def drawn(self, logits: Tensor, step: int, first: int) -> Tensor:
        """(B,) actions from the softmax of logits (B, A) over the temperature."""
        stream = np.random.PCG64([self.seed, step])
        stream.advance(first)
        uniform = torch.from_numpy(1.0 - np.random.Generator(stream).random(len(logits)))
        return inverse(logits / self.temperature, uniform.to(logits.device))


def inverse(logits: Tensor, uniform: Tensor) -> Tensor:
    """(B,) actions: the first whose cumulative probability reaches `uniform` (B,), which lie in (0, 1]. Logits are (B, A)."""
    mass = logits.softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
    return (mass < uniform[:, None] * mass[:, -1:]).sum(dim=1)
