"""Plan with a trained policy where the future is known: play many episodes, return the best one.

`greedy` plays the episode of the best actions. The other decodings add episodes to it, so none of
them is worse than it:

sample
    Episodes drawn from the policy (Bello et al. 2017, arXiv:1611.09940; Kool et al. 2019,
    arXiv:1803.08475).
multistart
    Forces the first decision to each of the likeliest actions, then plays the best actions (POMO,
    Kwon et al. 2020, arXiv:2010.16011). If there are more rollouts than first actions, the others
    are drawn from the policy.
beam
    Keeps the most promising partial episodes (`solvers.rl.beam`).

Memory is bounded because episodes are played in chunks. The chunks do not change the episodes:
episode e draws its action of step s from number e of the random stream with the seed (seed, s). So
the episodes of `sample` with fewer rollouts are among those with more.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Budget, Result, Solver
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator import ends_are_certain
from bench.simulator.tensors import TensorSimulator
from solvers.networks.policy import NetworkPolicy
from solvers.rl.beam import EXPANSION, BeamSearch
from solvers.rl.incumbent import Incumbent
from solvers.rl.rollouts import play_to_the_end

DECODINGS = ("greedy", "sample", "multistart", "beam")
GROWTH = 8  # a chunk has at most GROWTH times as many episodes as were played before it
MAX_PAIRS = 2**19  # B * K * M of the environments played at once; the network takes 1 kB per pair


class DecodingPlanner(Solver):
    """Plans by the best of several episodes of a policy in the simulator.

    The greedy episode is played first, and to its end. The chunks after it grow as far as
    `budget.seconds` seem to allow, and no step of a beam is begun once they are spent.

    `Result.info` holds:

    | key | meaning |
    |---|---|
    | decoding, rollouts, temperature | the parameters |
    | played | episodes; `beam`: its width, smaller where memory binds, plus the greedy episode |
    | best | number of the best episode, 0 = the greedy one |
    | decisions, seconds | effort, in all environments together |
    | objective | of the schedule, minimised; missing where every episode is a dead end |

    Parameters
    ----------
    policy
        The trained policy.
    decoding
        One of DECODINGS.
    rollouts
        Number of episodes; for `beam` of partial episodes kept, and the greedy one.
    temperature
        Of the softmax that episodes are drawn from; 1 = the policy as it was trained.
    max_pairs
        Upper limit of environments * tasks shown * agents that are played at once (but at least
        one environment is).

    Raises
    ------
    ValueError
        For an unknown decoding or less than one rollout.
    """

    clairvoyant = True

    def __init__(
        self,
        policy: NetworkPolicy,
        decoding: str = "sample",
        rollouts: int = 128,
        temperature: float = 1.0,
        max_pairs: int = MAX_PAIRS,
    ) -> None:
        if decoding not in DECODINGS:
            raise ValueError(f"decoding: {decoding!r} must be one of {', '.join(DECODINGS)}")
        if rollouts < 1:
            raise ValueError(f"decoding: rollouts={rollouts} must be at least 1")
        self.policy = policy
        self.decoding = decoding
        self.rollouts = 1 if decoding == "greedy" else rollouts
        self.temperature = temperature
        self.max_pairs = max_pairs

    @torch.no_grad()
    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Return the schedule of the best episode.

        It is `infeasible` where every episode ends in a dead end (`budget` sharing).
        """
        window = min(self.policy.window, instance.n_tasks)
        device = self.policy.device
        max_envs = max(1, self.max_pairs // (window * instance.n_agents))
        incumbent = Incumbent(budget.seconds)
        episodes = SampledEpisodes(self, int(rng.integers(2**62)))
        simulator = TensorSimulator([instance], setting, 1, window, device=device)
        episodes.play(simulator, 0, incumbent)
        if self.decoding == "beam":
            if self.rollouts > 1:
                width = min(self.rollouts - 1, max(1, max_envs // EXPANSION))
                self._search_beam(instance, setting, width, incumbent)
        else:
            while incumbent.episodes_played < self.rollouts and not incumbent.out_of_time:
                first = incumbent.episodes_played
                in_time = int(first * incumbent.seconds_remaining / incumbent.seconds_spent)
                count = max(1, min(max_envs, self.rollouts - first, GROWTH * first, in_time))
                simulator = TensorSimulator([instance], setting, count, window, device=device)
                episodes.play(simulator, first, incumbent)
        return incumbent.result(
            {"decoding": self.decoding, "rollouts": self.rollouts, "temperature": self.temperature}
        )

    def _search_beam(
        self, instance: Instance, setting: Setting, width: int, incumbent: Incumbent
    ) -> None:
        """Search with a beam of `width` partial episodes, with the rewards of the critic."""
        simulator = TensorSimulator(
            [instance],
            setting,
            EXPANSION * width,
            min(self.policy.window, instance.n_tasks),
            self.policy.shaped and ends_are_certain(instance),
            device=self.policy.device,
        )
        BeamSearch(self.policy.network, simulator, width, incumbent).run()


class SampledEpisodes:
    """Plays whole episodes of a planner's policy; `seed` determines every draw.

    The first ones take the best actions (for `multistart` one episode per first action), the others
    are drawn from the policy.
    """

    def __init__(self, planner: DecodingPlanner, seed: int) -> None:
        self.network = planner.policy.network
        self.rollouts = planner.rollouts
        self.temperature = planner.temperature
        self.multistart = planner.decoding == "multistart"
        self.seed = seed

    def play(self, simulator: TensorSimulator, first: int, incumbent: Incumbent) -> None:
        """Play the episodes `first` to `first` + B - 1, one in each of B new environments."""
        num_envs = simulator.num_envs
        episode = torch.arange(first, first + num_envs, device=simulator.device)  # (B,)
        first_actions = torch.zeros(1)

        def choose(logits: Tensor, step: int) -> Tensor:
            nonlocal first_actions
            if step == 0:
                first_actions = self.first_actions(logits[0])
            action = logits.argmax(dim=1)
            if first + num_envs > len(first_actions):  # some episodes are drawn
                drawn = self.draw_actions(logits, step, first)
                action = torch.where(episode < len(first_actions), action, drawn)
            if step == 0 and self.multistart:
                action = first_actions[episode % len(first_actions)]
            return action

        total, decisions = play_to_the_end(self.network, simulator, choose)
        incumbent.episodes_played += num_envs
        incumbent.decisions += int(decisions)
        incumbent.offer(simulator, total, first)

    def first_actions(self, logits: Tensor) -> Tensor:
        """Return the likeliest first actions, best first, of logits (A,).

        Only one, but for `multistart` as many as there are rollouts and legal actions.
        """
        legal = int(torch.isfinite(logits).sum()) if self.multistart else 1
        return logits.argsort(descending=True, stable=True)[: max(1, min(self.rollouts, legal))]

    def draw_actions(self, logits: Tensor, step: int, first: int) -> Tensor:
        """Draw the actions (B,) of the episodes `first` to `first` + B - 1 at `step`.

        They are drawn from the softmax of logits (B, A) / temperature.
        """
        stream = np.random.PCG64([self.seed, step])
        stream.advance(first)
        uniform = torch.from_numpy(1.0 - np.random.Generator(stream).random(len(logits)))
        return inverse_cdf(logits / self.temperature, uniform.to(logits.device))


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return (B,) the first action whose cumulative probability reaches `uniform` (B,) in (0, 1].

    The probabilities are the softmax of logits (B, A).
    """
    mass = logits.softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
    return (mass < uniform[:, None] * mass[:, -1:]).sum(dim=1)
