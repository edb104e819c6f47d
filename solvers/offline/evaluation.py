"""Off-policy evaluation (OPE): estimates of a policy's return from logs of other policies.

Dimensions: E episodes of at most L decisions, padded at the end with ratio 1, reward 0 and value 0;
T decisions; S = T + E states; A flat actions; C candidate policies. `bench.analysis.ope_metrics`
measures how good the estimates are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import UserError
from bench.logs.episodes import LoggedEpisodes
from solvers.networks.base import Network
from solvers.networks.decision_transformer import DecisionTransformerNetwork
from solvers.networks.pairwise import PairwiseNetwork
from solvers.offline.buffer import CHUNK, OfflineBuffer, q_values

Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval by the percentile bootstrap.

    Instances are resampled, not episodes, because episodes on the same instance are correlated. The
    ends of the interval are NaN with one instance.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OPEInputs:
    """Inputs of the estimators for one target policy."""

    reward: Floats  # (E, L)
    ratio: Floats  # (E, L) target probability of the logged action / behaviour probability
    q: Floats  # (E, L) estimated value of the logged action under the target policy
    value: Floats  # (E, L + 1) estimated value of the states under the target policy
    instance: NDArray[np.int64]  # (E,) instance numbers, from 0 in the order of first appearance

    @property
    def weight(self) -> Floats:
        """(E, L) importance weights: products of the ratios up to and including each decision."""
        return np.asarray(np.cumprod(self.ratio, axis=1), dtype=np.float64)


def per_decision_importance_sampling(inputs: OPEInputs, rng: np.random.Generator) -> Estimate:
    """Estimate by per-decision importance sampling (Precup, Sutton & Singh 2000, ICML).

    Unbiased if the behaviour policy may take every action that the target policy takes.
    """
    each = (inputs.weight * inputs.reward).sum(axis=1)[:, None]
    return bootstrap(each, inputs.instance, _sum_of_means, rng)


def weighted_importance_sampling(inputs: OPEInputs, rng: np.random.Generator) -> Estimate:
    """Estimate by weighted per-decision importance sampling: biased, but consistent.

    Source: Thomas 2015, "Safe Reinforcement Learning", section 3.4. At a step where all weights are
    0 the mean logged reward is used, as nothing else is known.
    """
    steps = inputs.reward.shape[1]

    def value(rows: Floats) -> float:
        weight = rows[:, :steps]
        reward = rows[:, steps:]
        total = weight.sum(axis=0)
        weighted = (weight * reward).sum(axis=0) / np.where(total > 0, total, 1.0)
        return float(np.where(total > 0, weighted, reward.mean(axis=0)).sum())

    rows = np.concatenate([inputs.weight, inputs.reward], axis=1)
    return bootstrap(rows, inputs.instance, value, rng)


def doubly_robust(inputs: OPEInputs, rng: np.random.Generator) -> Estimate:
    """Estimate by the doubly robust estimator (Jiang & Li 2016, arXiv:1511.03722, unrolled eq. 10).

    Its Q function is fitted on the same episodes.
    """
    correction = inputs.weight * (inputs.reward + inputs.value[:, 1:] - inputs.q)
    each = (inputs.value[:, 0] + correction.sum(axis=1))[:, None]
    return bootstrap(each, inputs.instance, _sum_of_means, rng)


def direct_method(inputs: OPEInputs, rng: np.random.Generator) -> Estimate:
    """Estimate by the mean fitted value of the first states: fitted Q evaluation (FQE)."""
    return bootstrap(inputs.value[:, :1], inputs.instance, _sum_of_means, rng)


def _sum_of_means(rows: Floats) -> float:
    """Return the sum over columns of the column means of (E, n) rows."""
    return float(rows.mean(axis=0).sum())


IMPORTANCE_SAMPLING: dict[str, Callable[[OPEInputs, np.random.Generator], Estimate]] = {
    "is": per_decision_importance_sampling,
    "wis": weighted_importance_sampling,
    "dr": doubly_robust,
}


def bootstrap(
    rows: Floats,
    instance: NDArray[np.int64],
    value: Callable[[Floats], float],
    rng: np.random.Generator,
) -> Estimate:
    """Return `value` of the rows and its bootstrap interval over resampled instances.

    Parameters
    ----------
    rows
        (E, n), one row per episode.
    instance
        (E,) instance numbers; a resampled instance brings all of its rows.
    value
        The statistic.
    rng
        Draws the `RESAMPLES` resamples.
    """
    by_instance = np.argsort(instance, kind="stable")
    count = np.bincount(instance)
    first = np.cumsum(count) - count
    resampled = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(count), size=len(count))
        sizes = count[chosen]
        starts = first[chosen] - (np.cumsum(sizes) - sizes)
        positions = np.repeat(starts, sizes) + np.arange(sizes.sum())
        resampled.append(value(rows[by_instance[positions]]))
    low, high = np.percentile(resampled, [2.5, 97.5]) if len(count) > 1 else (np.nan, np.nan)
    return Estimate(float(value(rows)), float(low), float(high))


def effective_sample_size(inputs: OPEInputs) -> float:
    """Return Kish's effective number of episodes, (sum w)^2 / sum w^2.

    w (E,) are the importance weights of whole episodes. 0 where all of them are 0.
    """
    weight = inputs.weight[:, -1]
    return float(weight.sum() ** 2 / np.square(weight).sum()) if weight.any() else 0.0


# -- estimates of candidate policies ---------------------------------------------------------------


@dataclass(frozen=True)
class PolicyEstimates:
    """Estimates of C policies from one log.

    Attributes
    ----------
    by_estimator
        Estimator name -> the C estimates: `fqe`, and where the log has probabilities `is`, `wis`
        and `dr`.
    effective_sample_size
        Of each policy; None where the log has no probabilities.
    refused
        Why importance sampling was not possible; None where it was.
    """

    by_estimator: dict[str, list[Estimate]]
    effective_sample_size: list[float] | None
    refused: str | None


def evaluate_policies(
    networks: Sequence[Network],
    buffer: OfflineBuffer,
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int,
    lr: float,
    width: int,
    message_passing_rounds: int,
) -> PolicyEstimates:
    """Estimate the returns of the greedy policies of C networks from the episodes of a buffer.

    Parameters
    ----------
    networks
        The C policies. They should not have been trained on these episodes: fitted Q evaluation
        would repeat the errors that the policies made there.
    buffer
        The episodes to evaluate on.
    rng
        Draws the bootstrap resamples.
    steps, batch, lr, width, message_passing_rounds
        Of `fitted_q_evaluation`.
    """
    actions = [greedy_actions(network, buffer) for network in networks]
    fitted = fitted_q_evaluation(
        buffer, torch.stack(actions, dim=1), steps, batch, lr, width, message_passing_rounds
    )
    q = all_q_values(fitted, buffer)
    refused = None
    try:
        require_probabilities(buffer.episodes)
    except UserError as error:
        refused = str(error)
    estimators = IMPORTANCE_SAMPLING if refused is None else {}
    by_estimator: dict[str, list[Estimate]] = {name: [] for name in ("fqe", *estimators)}
    sizes = []
    for i, action in enumerate(actions):
        inputs = ope_inputs(buffer, q[..., i], action)
        by_estimator["fqe"].append(direct_method(inputs, rng))
        for name, estimator in estimators.items():
            by_estimator[name].append(estimator(inputs, rng))
        if refused is None:
            sizes.append(effective_sample_size(inputs))
    return PolicyEstimates(by_estimator, sizes if refused is None else None, refused)


@torch.no_grad()
def greedy_actions(network: Network, buffer: OfflineBuffer) -> Tensor:
    """Return (S,) the action of the greedy policy in each state of the buffer."""
    if isinstance(network, DecisionTransformerNetwork):
        return _greedy_actions_given_history(network, buffer)
    rows = torch.arange(len(buffer.states.unit), device=buffer.device)
    return torch.cat(
        [
            network(buffer.states.select(part).features)[0].argmax(dim=1)
            for part in rows.split(CHUNK)
        ]
    )


def _greedy_actions_given_history(
    network: DecisionTransformerNetwork, buffer: OfflineBuffer
) -> Tensor:
    """Return (S,) as `greedy_actions`, each conditioned on the logged decisions before it.

    The return to condition on is the network's `target_return`, as at decision time. States after
    the last decision of an episode have no history; they get any legal action.
    """
    actions = buffer.states.mask.float().argmax(dim=1)
    for last in torch.arange(len(buffer), device=buffer.device).split(CHUNK // network.context):
        past = buffer.trajectories(last, network.context)
        target = torch.full_like(past.return_to_go, network.target_return)
        logits = network.forward_sequence(
            past.features, past.action, target, past.timestep, past.valid
        )
        actions[buffer.row[last]] = logits[:, -1].argmax(dim=1)
    return actions


def fitted_q_evaluation(
    buffer: OfflineBuffer,
    actions: Tensor,
    steps: int,
    batch: int,
    lr: float,
    width: int,
    message_passing_rounds: int,
    target_update: int = 10,
) -> PairwiseNetwork:
    """Fit the undiscounted Q functions of C deterministic policies at once.

    Fitted Q evaluation (Le et al. 2019, arXiv:1903.08738). One network with C outputs per action
    learns all policies together: the policies agree in most states, so errors that are common to
    all of them cancel in comparisons, which errors of separate networks would not.

    Parameters
    ----------
    buffer
        The episodes to fit on.
    actions
        (S, C), the action of each policy in each state of the buffer.
    steps, batch, lr
        Gradient steps, transitions per step, initial learning rate (it falls to a twentieth).
    width, message_passing_rounds
        Size of the network.
    target_update
        Steps between copies to the target network.

    Returns
    -------
    PairwiseNetwork
        With max(2, C) outputs per action, see `q_values`.
    """
    torch.manual_seed(int(torch.randint(2**62, (1,), generator=buffer.generator)))
    outputs = max(2, actions.shape[1])
    network, target = (
        PairwiseNetwork(width, message_passing_rounds, outputs).to(buffer.device) for _ in range(2)
    )
    target.load_state_dict(network.state_dict())
    if actions.shape[1] == 1:
        actions = actions.expand(-1, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, eps=1e-5)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1.0 - 0.95 * step / steps)
        sample = buffer.sample(batch)
        with torch.no_grad():
            next_action = actions[sample.next_row][:, None]
            next_value = q_values(target, sample.next_state).gather(1, next_action).squeeze(1)
            wanted = sample.reward[:, None] + (1.0 - sample.terminal)[:, None] * next_value
        q = q_values(network, sample.state)
        taken = q.gather(1, sample.action[:, None, None].expand(-1, 1, q.shape[2])).squeeze(1)
        # The mean square, not Huber's loss: returns are skewed, and a value is their mean.
        loss = (taken - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % target_update == 0:
            target.load_state_dict(network.state_dict())
    return network


@torch.no_grad()
def all_q_values(network: PairwiseNetwork, buffer: OfflineBuffer) -> Tensor:
    """Return (S, A, C) the values of a network of `fitted_q_evaluation` in every buffer state."""
    rows = torch.arange(len(buffer.states.unit), device=buffer.device)
    return torch.cat([q_values(network, buffer.states.select(part)) for part in rows.split(CHUNK)])


def ope_inputs(buffer: OfflineBuffer, q: Tensor, actions: Tensor) -> OPEInputs:
    """Return the inputs of the estimators for one deterministic policy.

    Parameters
    ----------
    buffer
        The episodes to evaluate on.
    q
        (S, A) values of the policy, as in `all_q_values`.
    actions
        (S,) actions of the policy.

    Returns
    -------
    OPEInputs
        In units of unscaled rewards. The ratios are NaN where the log has no probabilities.
    """
    episodes = buffer.episodes
    scale = buffer.reward_scale
    value = q.gather(1, actions[:, None])[:, 0].cpu().double().numpy() / scale
    logged_q = q[buffer.row].gather(1, buffer.action[:, None])[:, 0].cpu().double().numpy() / scale
    same = (actions[buffer.row] == buffer.action).cpu().numpy()
    if episodes.probability is not None:
        ratio = same / episodes.probability
    else:
        ratio = np.full(len(same), np.nan)
    last = np.cumsum(episodes.length) - 1  # (E,) the last decision of each episode
    has_value = np.ones(len(value), dtype=bool)
    has_value[episodes.state[last] + 1] = ~episodes.terminated[last]
    number = {name: i for i, name in enumerate(dict.fromkeys(episodes.instance))}
    return OPEInputs(
        reward=pad_episodes(episodes, buffer.unscaled_reward, 0.0),
        ratio=pad_episodes(episodes, ratio, 1.0),
        q=pad_episodes(episodes, logged_q, 0.0),
        value=pad_episodes(episodes, np.where(has_value, value, 0.0), 0.0, states=True),
        instance=np.array([number[name] for name in episodes.instance]),
    )


def require_probabilities(episodes: LoggedEpisodes) -> None:
    """Raise UserError where the log has no probabilities, which importance sampling needs."""
    if episodes.probability is None:
        raise UserError(
            f"logs {episodes.name}: importance sampling and the doubly robust estimator need the "
            "probability of each logged action under the behaviour policy, and the log has none; "
            "fitted Q evaluation does without"
        )


def pad_episodes(
    episodes: LoggedEpisodes, column: NDArray[np.generic], fill: float, states: bool = False
) -> Floats:
    """Arrange a column by episode.

    Parameters
    ----------
    episodes
        The log.
    column
        (T,) over decisions, or with `states` (T + E,) over states.
    fill
        The entry behind the end of an episode.

    Returns
    -------
    NDArray
        (E, L), or with `states` (E, L + 1).
    """
    length = episodes.length + states
    out = np.full((len(length), int(length.max())), fill)
    out[np.arange(out.shape[1]) < length[:, None]] = column
    return out
