"""PPO: its loss, its gradient against the exact one, and a problem that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.networks.policy import load_policy
from solvers.ppo import PPO, clipped_gain, normalised
from solvers.rl.advantages import gae, group_advantages
from solvers.rl.imitation import Imitation
from solvers.rl.trainer import Trainer
from solvers.rules import SJF
from tests.solvers.learning import (
    COMMIT,
    CPU,
    LEARNABLE,
    ONLINE,
    MemoryLogger,
    assert_unbiased,
    budget_instance,
    confident_network,
    exact_gradient,
    fit,
    lowest_untrained_regret,
    regret,
    small_learner,
    take_gradient,
    three_tasks,
)

ONLINE_COMMIT = replace(COMMIT, track="online", observe="arrived")
GROUP = {"advantage": "group", "shaped": False}


def trainer_of(learner: PPO, network: torch.nn.Module) -> tuple[Trainer, list[Instance]]:
    """Return a trainer on two instances whose episodes have three decisions."""
    instances = [three_tasks(0), three_tasks(1)]
    simulator = TensorSimulator(instances, COMMIT, learner.num_envs)
    return Trainer(learner, network, simulator, seed=1, total_decisions=10**9), instances


def test_gains_are_clipped_if_the_policy_has_moved_enough():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0])
    assert clipped_gain(ratio, advantage, 0.2).tolist() == pytest.approx(
        [2.4, -3.0, 1.0, -1.6, 2.2]
    )


def test_advantages_are_normalised():
    for advantage, expected in ([1.0, 3.0], [-1.0, 1.0]), ([4.0], [0.0]):
        x = torch.tensor(advantage)
        found = normalised(x, x.mean(), x.std(correction=0))
        assert found.tolist() == pytest.approx(expected)


def test_a_prediction_gains_nothing_by_moving_further_than_the_clip_range():
    before, target = torch.zeros(1), torch.full((1,), 10.0)
    near, far = torch.full((1,), 1.0), torch.full((1,), 9.0)
    free, clipped = small_learner(PPO), small_learner(PPO, clip_value=0.5)
    assert free.value_loss(far, before, target, 2.0).item() == pytest.approx((1 / 2) ** 2)
    # clipped at 0.5 standard deviations, which is 1
    assert clipped.value_loss(far, before, target, 2.0).item() == pytest.approx((9 / 2) ** 2)
    assert clipped.value_loss(near, before, target, 2.0).item() == pytest.approx((9 / 2) ** 2)


@pytest.mark.parametrize("critic", ["shared", "clairvoyant"])
def test_the_gradient_is_that_of_the_expected_return(critic):
    network, found = confident_network(), []
    learner = small_learner(
        PPO,
        critic=critic,
        num_envs=256,
        steps=6,
        epochs=1,
        minibatch=10**6,
        gae_lambda=1.0,
        entropy=0.0,
        value_weight=0.0,
    )
    trainer, instances = trainer_of(learner, network)

    def keep_gradient() -> None:
        r = rollout
        advantage = gae(r.reward, r.value, r.next_value, r.terminated, r.truncated, 1.0, 1.0)
        # the loss is a mean over the three decisions of each episode, and normalised
        gradient = take_gradient(trainer)[: sum(one.numel() for one in network.parameters())]
        found.append(gradient * -3 * float(advantage.std(correction=0)))

    trainer.step = keep_gradient
    for _ in range(16):
        rollout = learner.collect(trainer)
        learner.update(trainer, rollout)
    assert_unbiased(torch.stack(found), exact_gradient(instances, COMMIT, network))


@pytest.mark.parametrize("setting", [Setting(), COMMIT], ids=["fit", "commit"])
def test_the_gradient_by_groups_is_that_of_the_expected_return(setting):
    network, found = confident_network(), []
    instances = [three_tasks(0), three_tasks(1)]
    learner = small_learner(
        PPO, num_envs=512, group=8, epochs=1, minibatch=10**6, entropy=0.0, **GROUP
    )
    simulator = TensorSimulator(instances, setting, learner.num_envs)
    trainer = Trainer(learner, network, simulator, seed=1, total_decisions=10**9)

    def keep_gradient() -> None:
        advantage = group_advantages(rollout.reward, rollout.tick, 8)[rollout.taken]
        decisions_per_episode = len(advantage) / learner.num_envs
        scale = decisions_per_episode * float(advantage.std(correction=0))
        found.append(-take_gradient(trainer) * scale)

    trainer.step = keep_gradient
    for _ in range(16):
        rollout = learner.collect(trainer)
        learner.update(trainer, rollout)
    assert_unbiased(torch.stack(found), exact_gradient(instances, setting, network))


def test_groups_compare_decisions_where_there_is_no_clock():
    """With budget sharing all episodes of equal costs have no advantage over one another."""
    instances = [budget_instance(np.random.default_rng(seed)) for seed in range(4)]
    learner = small_learner(PPO, num_envs=64, group=16, **GROUP)
    trainer = learner.trainer(instances, Setting(track="assign"))
    rollout = learner.collect(trainer)
    advantage = group_advantages(rollout.reward, rollout.tick, 16)
    returns = rollout.reward.sum(dim=0)
    others = (returns.view(-1, 16).sum(dim=1, keepdim=True) - returns.view(-1, 16)) / 15
    torch.testing.assert_close(advantage[0], returns - others.flatten())
    assert learner.share(3) is None
    assert small_learner(PPO, num_envs=48, group=16, **GROUP).share(2) is None


def test_the_policy_has_not_moved_when_an_update_begins():
    learner = small_learner(PPO, steps=6, epochs=1, minibatch=10**6)
    trainer, _ = trainer_of(learner, confident_network())
    values = learner.update(trainer, learner.collect(trainer))
    assert values["losses/approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert values["losses/clip_fraction"] == 0.0


def test_an_update_stops_if_the_policy_has_moved_too_far():
    learner = small_learner(PPO, steps=6, epochs=9, minibatch=32, lr=0.1, max_kl=1e-3)
    trainer, _ = trainer_of(learner, confident_network())
    assert learner.update(trainer, learner.collect(trainer))["charts/epochs"] < 9


@pytest.mark.parametrize(
    "changes", [{"steps": 8}, {"steps": 8, "critic": "clairvoyant"}, {"group": 8, **GROUP}], ids=str
)
def test_it_learns_what_no_untrained_network_can(changes, tmp_path):
    assert lowest_untrained_regret() > 0.1
    learner = small_learner(
        PPO,
        num_envs=64,
        width=16,
        minibatch=128,
        lr=3e-3,
        validate_every=5,
        save_seconds=60.0,
        **changes,
    )
    # all tasks are there from the start: what is observed is the same
    setting = ONLINE_COMMIT if learner.critic == "clairvoyant" else COMMIT
    policy = fit(learner, LEARNABLE, MemoryLogger(tmp_path), 9_000, setting)
    assert regret(policy.network) < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "td"}, r"solver\.advantage: value 'td': must be one of gae, group"),
        ({"group": 5}, r"solver\.group: value 5: .*divide solver\.num_envs=16"),
        ({"shaped": True}, r"solver\.shaped: value True: .*set false"),
        ({"gamma": 0.9}, r"solver\.gamma: value 0\.9: .*set 1\.0"),
        ({"critic": "clairvoyant"}, r"solver\.critic: value clairvoyant: .*leave it out"),
        (
            {"critic": "clairvoyant", "advantage": "gae", "decoding": "beam"},
            r"solver\.critic: value clairvoyant: trains no critic .*decoding=beam needs",
        ),
        (
            {"critic": "clairvoyant", "advantage": "gae", "imitation": Imitation(teacher=SJF())},
            r"solver\.critic: value clairvoyant: solver\.imitation trains",
        ),
        ({"critic": "oracle"}, r"solver\.critic: value 'oracle': must be one of shared, clairv"),
        ({"decoding": "beam"}, r"solver\.advantage: value group: trains no critic .*decoding=beam"),
    ],
)
def test_settings_that_groups_cannot_serve_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        PPO(**({"device": "cpu", "num_envs": 16, "group": 4} | GROUP | changes))


def test_a_critic_that_knows_the_future_predicts_what_no_policy_can():
    """Two instances differ in a task that arrives later; the first decision is the same in both."""
    durations = ([[1], [1]], [[1], [30]])
    instances = [
        Instance(duration, np.ones((2, 1, 1)), [[1]], [0], release=[0, 5]) for duration in durations
    ]
    errors = {}
    for critic in ("shared", "clairvoyant"):
        learner = small_learner(PPO, critic=critic, num_envs=32, steps=4, lr=1e-2, shaped=False)
        trainer = learner.trainer(instances, ONLINE)
        for _ in range(60):
            trainer.train_iteration()
        rollout = learner.collect(trainer)
        target = rollout.advantages(1.0, 1.0)[1].view_as(rollout.value)
        first = torch.zeros_like(rollout.taken)
        first[1:] = rollout.terminated[:-1]
        first[-1] = False  # of the episode that begins last only one decision is known
        errors[critic] = float((rollout.value - target)[first].square().mean())
    assert errors["clairvoyant"] < 0.1 * errors["shared"]


def test_the_critic_is_not_kept_with_the_policy(tmp_path):
    kept = []
    for critic in ("shared", "clairvoyant"):
        learner = small_learner(PPO, critic=critic, steps=8)
        policy = fit(learner, LEARNABLE, MemoryLogger(tmp_path), 256, ONLINE_COMMIT)
        assert load_policy(tmp_path / "policy.pt", CPU).predicts_returns == (critic == "shared")
        (tmp_path / "training.pt").unlink()
        kept.append(policy.network.state_dict().keys())
    assert kept[0] == kept[1]


def test_a_critic_that_knows_what_the_policy_knows_is_refused(tmp_path):
    learner = small_learner(PPO, critic="clairvoyant")
    with pytest.raises(UserError, match=r"solver\.critic: .*\(track=online\); set shared"):
        fit(learner, LEARNABLE, MemoryLogger(tmp_path), 256, COMMIT)
