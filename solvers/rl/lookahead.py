"""Decisions by looking ahead: try the likeliest actions on the visible tasks, take the best one.

The rollout algorithm (Bertsekas, Tsitsiklis and Wu 1997, doi:10.1023/A:1009635226865) with a
trained policy as base: at each decision every candidate is followed to the end of all visible tasks
in the simulator, by the policy, as if no further task arrived. An episode takes the likeliest
actions; further ones are drawn from the policy, and the best one counts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Policy
from bench.errors import UserError
from bench.observation import Observation
from bench.setting import Setting
from bench.simulator.tables import RELEASE
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_observation
from solvers.dispatch.visible import visible_instance
from solvers.networks.policy import NetworkPolicy
from solvers.rl.rollouts import play_to_the_end, sample

LOOKAHEAD = "lookahead"  # the value of `decoding`


class LookaheadPolicy(Policy):
    """Takes the candidate whose best episode over the visible tasks costs least.

    For an action that the visible state as an instance does not allow, the policy chooses another.

    Parameters
    ----------
    policy
        The trained policy.
    setting
        Of the run: the objective, and how decisions become starts.
    rollouts
        Episodes of each candidate; the first one takes the likeliest actions.
    temperature
        Of the softmax that further episodes are drawn from.
    candidates
        At most as many actions are tried, the likeliest ones.
    least_probability
        Of a candidate; the likeliest action is one in any case.

    Raises
    ------
    UserError
        For a network that decides by its earlier decisions, or plays one size only.
    """

    def __init__(
        self,
        policy: NetworkPolicy,
        setting: Setting,
        rollouts: int = 1,
        temperature: float = 1.0,
        candidates: int = 8,
        least_probability: float = 0.1,
    ) -> None:
        if policy.network.has_memory or not policy.network.serves_any_size:
            raise UserError(
                "solver.decoding: value lookahead: needs a network for any number of tasks that "
                f"decides by what it observes; this one is {policy.network.kind}; set greedy"
            )
        self.policy = policy
        # no task of a visible state lies in the future, and all of them have arrived at once
        self.setting = replace(setting, track="schedule", observe="all", event_order="batched")
        self.window = policy.window
        self.rollouts = rollouts
        self.temperature = temperature
        self.candidates = candidates
        self.least_probability = least_probability

    def reset(self) -> None:
        """Begin an episode."""
        self.policy.reset()

    @torch.no_grad()
    def act(self, observation: Observation, rng: np.random.Generator) -> int:
        """Return the legal flat action with the best episode."""
        view = from_observation(observation, self.policy.device)
        probability = self.policy.distribution(view)[0]
        best = probability.topk(min(self.candidates, int((probability > 0).sum())))
        actions = best.indices[best.values >= min(self.least_probability, float(best.values[0]))]
        if len(actions) < 2:
            return int(actions[0])
        returns = self.look_ahead(observation, actions, rng)
        return int(actions[int(returns.argmax())])

    def look_ahead(
        self, observation: Observation, actions: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """Return the best return (C,) of each of the actions (C,) on the visible tasks."""
        planned = np.arange(min(len(observation.release), self.policy.window))
        instance = visible_instance(observation, planned)
        window = min(self.policy.window, instance.n_tasks)
        count = len(actions) * self.rollouts
        simulator = TensorSimulator(
            [instance], self.setting, count, window, device=self.policy.device
        )
        for agent in observation.running_agent.tolist():  # what runs already, starts first
            simulator.step(torch.full((count,), agent, device=simulator.device))
        # everything has arrived: from here on releases only say how long tasks have waited
        release = torch.from_numpy(observation.release[planned]).to(simulator.device)
        simulator.tables.task[0, len(observation.running_agent) :, RELEASE] = release
        first = torch.where(
            actions == observation.wait, window * observation.n_agents, actions
        ).repeat_interleave(self.rollouts)
        legal = simulator.state.mask.gather(1, first[:, None])[:, 0].bool()
        generator = torch.Generator(simulator.device).manual_seed(int(rng.integers(2**62)))
        drawn = torch.arange(count, device=simulator.device) % self.rollouts > 0

        def choose(logits: Tensor, step: int) -> Tensor:
            action = logits.argmax(dim=1)
            if step == 0:
                return torch.where(legal, first, action)
            if self.rollouts > 1:
                action = torch.where(drawn, sample(logits / self.temperature, generator), action)
            return action

        total, _ = play_to_the_end(self.policy.network, simulator, choose)
        return total.view(len(actions), self.rollouts).amax(dim=1)
