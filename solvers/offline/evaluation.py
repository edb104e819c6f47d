"""Off-policy evaluation: what a policy would return, told from logs that other policies made.

E episodes of at most L decisions, padded behind their ends with ratio 1, reward 0 and values 0; C candidate policies. How good
estimates are is measured by `bench.analysis.ope_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import UserError
from bench.logs.episodes import Episodes
from solvers.networks.decision_transformer import TransformerNetwork
from solvers.networks.pairwise import Network, PairNetwork
from solvers.offline.feed import CHUNK, Feed, q_values

Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A value with a 95 % interval, by the percentile bootstrap over instances, as episodes on one are alike."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Told:
    """What is known of one policy on logged episodes, each (E, L) but for `instance`."""

    reward: Floats
    ratio: Floats  # probability of the logged action under the policy, over that under the behaviour policy
    q: Floats  # estimated value of the logged action
    value: Floats  # (E, L + 1) estimated value of the states under the policy, 0 after the end
    instance: NDArray[
        np.int64
    ]  # (E,) number of the instance that was played, from 0 in the order of their first episodes

    @property
    def weight(self) -> Floats:
        """(E, L) product of the ratios up to each decision."""
        return np.asarray(np.cumprod(self.ratio, axis=1), dtype=np.float64)


def per_decision(told: Told, rng: np.random.Generator) -> Estimate:
    """Per-decision importance sampling (Precup, Sutton & Singh 2000): unbiased if the behaviour may do all it does."""
    return bootstrap(
        (told.weight * told.reward).sum(axis=1)[:, None],
        told.instance,
        lambda rows: rows.mean(axis=0).sum(),
        rng,
    )


def weighted(told: Told, rng: np.random.Generator) -> Estimate:
    """Weighted per-decision importance sampling (Thomas 2015, "Safe Reinforcement Learning", section 3.4): biased, consistent.

    At a step where no weight is left the reward counts as the logged mean: there is nothing else to go by.
    """
    weight, steps = told.weight, told.reward.shape[1]

    def value(rows: Floats) -> float:
        w, r = rows[:, :steps], rows[:, steps:]
        total = w.sum(axis=0)
        share = np.where(
            total > 0, (w * r).sum(axis=0) / np.where(total > 0, total, 1.0), r.mean(axis=0)
        )
        return float(share.sum())

    return bootstrap(np.concatenate([weight, told.reward], axis=1), told.instance, value, rng)


def doubly_robust(told: Told, rng: np.random.Generator) -> Estimate:
    """The doubly robust estimator (Jiang & Li 2016, arXiv:1511.03722, unrolled eq. 10); its model knows the same episodes."""
    correction = told.weight * (told.reward + told.value[:, 1:] - told.q)
    each = (told.value[:, 0] + correction.sum(axis=1))[:, None]
    return bootstrap(each, told.instance, lambda rows: rows.mean(axis=0).sum(), rng)


def direct(told: Told, rng: np.random.Generator) -> Estimate:
    """The mean estimated value of the first states: fitted Q evaluation."""
    return bootstrap(told.value[:, :1], told.instance, lambda rows: rows.mean(axis=0).sum(), rng)


def bootstrap(
    rows: Floats,
    instance: NDArray[np.int64],
    value: Callable[[Floats], float],
    rng: np.random.Generator,
) -> Estimate:
    """`value` of rows (E, n), and its 95 % interval over resampled instances, each with all of its rows; NaN with one."""
    together, count = np.argsort(instance, kind="stable"), np.bincount(instance)
    first, drawn = np.cumsum(count) - count, []
    for _ in range(RESAMPLES):
        picks = rng.integers(len(count), size=len(count))
        of = count[picks]
        places = np.repeat(first[picks] - (np.cumsum(of) - of), of) + np.arange(of.sum())
        drawn.append(value(rows[together[places]]))
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(count) > 1 else (np.nan, np.nan)
    return Estimate(float(value(rows)), float(low), float(high))


def effective_size(told: Told) -> float:
    """Kish's effective number of episodes behind importance sampling: (sum w)^2 / sum w^2 of the whole episodes' weights."""
    weight = told.weight[:, -1]
    return float(weight.sum() ** 2 / np.square(weight).sum()) if weight.any() else 0.0


# -- from logs and policies ------------------------------------------------------------------------------------------


@torch.no_grad()
def greedy_actions(network: Network, feed: Feed) -> Tensor:
    """(S,) what the policy does in each state of the feed."""
    if isinstance(network, TransformerNetwork):
        return _told_by_history(network, feed)
    rows = torch.arange(len(feed.states.unit), device=feed.device)
    return torch.cat(
        [network(feed.states.at(chunk).features)[0].argmax(dim=1) for chunk in rows.split(CHUNK)]
    )


def _told_by_history(network: TransformerNetwork, feed: Feed) -> Tensor:
    """(S,) as `greedy_actions`, after the decisions that were logged before, with the target return that it decides by."""
    actions = feed.states.mask.float().argmax(
        dim=1
    )  # any legal one where an episode was cut: nothing was done there
    for last in torch.arange(len(feed), device=feed.device).split(CHUNK // network.context):
        past = feed.trajectories(last, network.context)
        target = torch.full_like(past.return_to_go, network.target_return)
        actions[feed.state[last]] = network.along(
            past.seen, past.action, target, past.step, past.known
        )[:, -1].argmax(dim=1)
    return actions


def fitted_q(
    feed: Feed,
    actions: Tensor,
    steps: int,
    batch: int,
    lr: float,
    width: int,
    rounds: int,
    target_update: int = 10,
) -> PairNetwork:
    """Fitted Q evaluation (Le et al. 2019, arXiv:1903.08738) of C deterministic policies at once, undiscounted as scores are.

    actions (S, C): what each does in each state of the feed. One network with C outputs per action learns them together: the
    policies are mostly alike, and what differs between them is then not drowned by what differs between networks.
    """
    torch.manual_seed(int(torch.randint(2**62, (1,), generator=feed.generator)))
    network, target = (
        PairNetwork(width, rounds, max(2, actions.shape[1])).to(feed.device) for _ in range(2)
    )
    target.load_state_dict(network.state_dict())
    if actions.shape[1] == 1:
        actions = actions.expand(-1, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, eps=1e-5)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1.0 - 0.95 * step / steps)
        rows = feed.draw(batch)
        with torch.no_grad():
            following = (
                q_values(target, rows.following)
                .gather(1, actions[rows.next_state][:, None])
                .squeeze(1)
            )  # (n, C)
            wanted = rows.reward[:, None] + (1.0 - rows.terminal)[:, None] * following
        q = q_values(network, rows.seen)
        told = q.gather(1, rows.action[:, None, None].expand(-1, 1, q.shape[2])).squeeze(1)
        loss = (
            (told - wanted).square().mean()
        )  # not Huber's: returns are skewed, and their median is no value
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % target_update == 0:
            target.load_state_dict(network.state_dict())
    return network


@torch.no_grad()
def all_values(network: PairNetwork, feed: Feed) -> Tensor:
    """(S, A, C) the values that `fitted_q` found, in every state of a feed."""
    rows = torch.arange(len(feed.states.unit), device=feed.device)
    return torch.cat([q_values(network, feed.states.at(chunk)) for chunk in rows.split(CHUNK)])


def told_of(feed: Feed, q: Tensor, actions: Tensor) -> Told:
    """What the logged episodes of a feed say of one deterministic policy.

    q (S, A): its values, as `all_values` gives them; actions (S,): what it does. Where the log has no probabilities the ratios
    are NaN.
    """
    log = feed.log
    value = q.gather(1, actions[:, None])[:, 0].cpu().double().numpy() / feed.reward_scale
    logged = (
        q[feed.state].gather(1, feed.action[:, None])[:, 0].cpu().double().numpy()
        / feed.reward_scale
    )
    same = (actions[feed.state] == feed.action).cpu().numpy()
    ratio = same / log.probability if log.probability is not None else np.full(len(same), np.nan)
    going_on = np.ones(len(value), dtype=bool)
    going_on[log.state[np.cumsum(log.length) - 1] + 1] = ~log.terminated[np.cumsum(log.length) - 1]
    number = {name: i for i, name in enumerate(dict.fromkeys(log.instance))}
    return Told(
        padded(log, feed.rewards, 0.0), padded(log, ratio, 1.0), padded(log, logged, 0.0),
        padded(log, np.where(going_on, value, 0.0), 0.0, states=True), np.array([number[name] for name in log.instance]),
    )  # fmt: skip


def needs_probabilities(log: Episodes) -> None:
    """Raises UserError where importance sampling has nothing to weigh by."""
    if log.probability is None:
        raise UserError(
            f"logs {log.name}: importance sampling and the doubly robust estimator need the probability of each logged action "
            "under the behaviour policy, and the log has none; fitted Q evaluation does without"
        )


def padded(log: Episodes, column: NDArray[np.generic], fill: float, states: bool = False) -> Floats:
    """(E, L) of a column over decisions (T,), or (E, L + 1) of one over states (T + E,)."""
    length = log.length + states
    out = np.full((len(length), int(length.max())), fill)
    out[np.arange(out.shape[1]) < length[:, None]] = column
    return out
