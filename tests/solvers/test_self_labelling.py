"""Self-labelling: its labels, the states they begin at, its losses, and problems that it learns."""

import numpy as np
import pytest
import torch

from bench.contracts import Budget
from bench.errors import UserError
from bench.metrics import objective
from bench.setting import Setting
from bench.simulator.tables import INSTANCE
from bench.simulator.tensors import TensorSimulator
from bench.verify import verify
from solvers.rl.labels import LabelMemory, improved
from solvers.rl.rollouts import log_probability, play_greedily
from solvers.self_labelling import SelfLabelling, preference_weights
from tests.solvers.learning import (
    COMMIT,
    LEARNABLE,
    FixedDataset,
    MemoryLogger,
    budget_instance,
    complex_instance,
    confident_network,
    fit,
    lowest_untrained_regret,
    random_instance,
    regret,
    small_learner,
    take_gradient,
)

GENERATOR = torch.Generator().manual_seed(0)
SCHEDULE, ASSIGN = Setting(), Setting(track="assign")


def trainer_of(make, setting=SCHEDULE, count=4, **changes):
    """Return the trainer of a small learner on instances that `make` draws."""
    instances = [make(np.random.default_rng(seed)) for seed in range(count)]
    changes = {"group": 4, "replays": 8, "updates": 2} | changes
    return small_learner(SelfLabelling, **changes).trainer(instances, setting)


def labels_of(trainer):
    """Return row -> label of the instances that have one."""
    return {row: kind._labels[row] for kind in trainer.memory.kinds for row in kind.rows}


@pytest.mark.parametrize(
    ("make", "setting"),
    [(random_instance, SCHEDULE), (complex_instance, SCHEDULE), (budget_instance, ASSIGN)],
    ids=["plain", "quotas and outages", "assign"],
)
@pytest.mark.parametrize("moves", [0, 50], ids=["sampled", "improved"])
def test_labels_are_complete_feasible_and_no_worse_than_the_greedy_episode(make, setting, moves):
    trainer = trainer_of(make, setting, moves_per_task=moves)
    scale = trainer.collector.simulator.scale
    instances = trainer.collector.simulator.instances
    greedy = play_greedily(trainer.network, TensorSimulator(instances, setting))
    for _ in range(8):
        trainer.learner.collect(trainer)
    assert labels_of(trainer), "no instance has a label"
    for row, label in labels_of(trainer).items():
        assert verify(label.instance, label.schedule) == []
        value = objective(label.instance, label.schedule, setting.objective)
        assert value == label.value
        if setting is SCHEDULE:  # in `assign` the greedy episode may be a dead end
            assert -value / float(scale[row]) >= float(greedy[row]) - 1e-9


def test_local_search_makes_better_labels():
    means = []
    for moves in (0, 200):
        trainer = trainer_of(lambda rng: random_instance(rng, 9), moves_per_task=moves)
        for _ in range(4):
            trainer.learner.collect(trainer)
        means.append(np.mean([label.value for label in labels_of(trainer).values()]))
    assert means[1] < means[0]


def test_the_first_episode_of_a_group_is_greedy_and_the_others_are_drawn():
    trainer = trainer_of(random_instance, group=8, num_envs=16)
    collector, learner = trainer.collector, trainer.learner
    network = confident_network()
    collector.begin_episodes(8)
    rows = collector.simulator.state.env[:, INSTANCE].tolist()
    returns, decisions = learner.play(network, collector.simulator, trainer.generator)
    instances = collector.simulator.instances
    greedy = play_greedily(network, TensorSimulator(instances, SCHEDULE))
    for first in (0, 8):
        assert len(set(rows[first : first + 8])) == 1
        assert float(returns[first]) == pytest.approx(float(greedy[rows[first]]))
    assert len(returns.unique()) > 2
    assert int(decisions) >= 16 * 6


def test_a_better_label_stays_and_a_replaced_instance_has_none():
    trainer = trainer_of(random_instance)
    simulator, labels = trainer.collector.simulator, trainer.memory.whole
    rng = np.random.default_rng(0)
    bad = schedule_of(simulator, 0, 0)
    labels.offer(0, bad)
    good = improved(simulator.instances[0], SCHEDULE, bad, 100, rng)
    labels.offer(0, good)
    labels.offer(0, bad)
    assert labels._labels[0].schedule is good
    simulator.replace([0], [random_instance(np.random.default_rng(99))])
    assert labels.rows == []
    assert labels.draw(trainer.network, 1.0, GENERATOR) is None


def schedule_of(simulator, row, seed):
    """Return the schedule of a random episode of one instance."""
    one = TensorSimulator([simulator.instances[row]], simulator.setting)
    one.play_random(np.random.default_rng(seed))
    return one.host().schedule(0)


def test_a_completion_follows_the_policy_and_is_learned_from_its_tick_on():
    trainer = trainer_of(
        lambda rng: random_instance(rng, 9), completions=1.0, moves_per_task=100, replays=4
    )
    network = trainer.best_network()
    for _ in range(6):
        trainer.learner.collect(trainer)
    assert any(label.first_tick > 0 for label in labels_of(trainer).values())
    for row, label in labels_of(trainer).items():
        one = TensorSimulator([label.instance], SCHEDULE)
        play_greedily(network, one)
        greedy = one.host().schedule(0)
        tick = label.first_tick
        assert started_before(label.schedule, tick) == started_before(greedy, tick)
        assert verify(label.instance, label.schedule) == []
        assert label.value <= objective(label.instance, greedy, "total_time")
        batch = trainer.memory.completions.replay.replay(
            torch.full((4,), row), trainer.network, 1.0, trainer.generator
        )
        # it demonstrates every start from the tick on, and waiting in between
        demonstrated = int(batch.scheduled[:, :-1].any(dim=1).sum())
        assert demonstrated == 4 * int((label.schedule.start >= tick).sum())


def started_before(schedule, tick):
    """Return (task, agent, start) of what starts before a tick."""
    rows = zip(
        schedule.task.tolist(), schedule.agent.tolist(), schedule.start.tolist(), strict=True
    )
    return {row for row in rows if row[2] < tick}


def test_restored_labels_give_the_same_demonstrations():
    trainer = trainer_of(complex_instance, moves_per_task=20, completions=0.5)
    trainer.learner.collect(trainer)
    instances = trainer.collector.simulator.instances
    other = LabelMemory(TensorSimulator(instances, SCHEDULE), 8, 0.5)
    other.restore(trainer.memory.state())
    one, two = (
        labels.draw(trainer.network, 1.0, torch.Generator().manual_seed(3))
        for labels in (trainer.memory, other)
    )
    assert torch.equal(one.scheduled, two.scheduled)
    assert torch.equal(one.target, two.target)


def bopo_loss(rollout, logp, group, ranks):
    """Return the loss of the paper, pair by pair; logp (S, B) with its gradient."""
    length = rollout.taken.sum(dim=0)
    mean = logp.masked_fill(~rollout.taken, 0.0).sum(dim=0) / length
    returns = rollout.reward.sum(dim=0)
    losses, pairs = [], 0
    for first in range(0, len(returns), group):
        order = sorted(range(first, first + group), key=lambda b: (-float(returns[b]), b))
        places = np.linspace(0, group - 1, ranks).round().astype(int)
        best, *others = [order[i] for i in places]
        pairs += len(others)
        for other in others:
            if returns[other] < returns[best]:
                ratio = min(float(returns[other] / returns[best]), 10.0)
                difference = ratio * (mean[best] - mean[other])
                losses.append(torch.nn.functional.logsigmoid(difference))
    return -torch.stack(losses).sum() / pairs


def test_the_preference_step_is_the_gradient_of_the_loss():
    trainer = trainer_of(
        lambda rng: random_instance(rng, 5),
        loss="preference",
        group=8,
        ranks=4,
        entropy=0.0,
        num_envs=32,
    )
    rollout = trainer.learner.collect(trainer)
    logits, _ = trainer.network(rollout.features)
    logp = log_probability(logits, rollout.action).view(rollout.taken.shape)
    loss = bopo_loss(rollout, logp, 8, 4)
    exact = trainer.weights.gradient(loss).double()
    found = []
    trainer.step = lambda: found.append(take_gradient(trainer))
    trainer.learner.update(trainer, rollout)
    torch.testing.assert_close(found[0], exact, rtol=1e-3, atol=1e-7)


def test_equal_episodes_are_not_compared():
    trainer = trainer_of(random_instance, loss="preference", group=4)
    rollout = trainer.learner.collect(trainer)
    rollout.reward[:] = -1.0
    assert not preference_weights(rollout, 4, 4).any()


@pytest.mark.parametrize(
    "changes", [{"loss": "cross_entropy"}, {"loss": "preference", "group": 16}], ids=str
)
def test_it_learns_what_no_untrained_network_can(changes, tmp_path):
    assert lowest_untrained_regret() > 0.1
    settings = {"num_envs": 64, "width": 16, "group": 8, "lr": 5e-3, "save_seconds": 60.0}
    learner = small_learner(SelfLabelling, **(settings | changes))
    policy = fit(learner, LEARNABLE, MemoryLogger(tmp_path), 12_000, COMMIT)
    assert regret(policy.network) < 1e-3


@pytest.mark.parametrize("name", ["total_time", "makespan", "tardiness", "bounded_slowdown"])
def test_every_objective_is_served(name, tmp_path):
    data, logger = FixedDataset(random_instance, 6), MemoryLogger(tmp_path)
    learner = small_learner(
        SelfLabelling, group=4, replays=8, updates=2, moves_per_task=20, completions=0.5
    )
    fit(learner, data, logger, 600, Setting(objective=name))
    values = [values for _, values in logger.logged]
    assert all(np.isfinite(one["losses/cloning"]) for one in values)
    assert all(one["labels/best_return"] >= one["labels/greedy_return"] for one in values)


@pytest.mark.parametrize(
    ("setting", "make", "changes", "message"),
    [
        (COMMIT, random_instance, {"completions": 0.0}, r"solver\.moves_per_task: .*mode=commit"),
        (ASSIGN, budget_instance, {"completions": 0.5}, r"solver\.completions: .*budget sharing"),
    ],
    ids=["commit", "assign"],
)
def test_improvements_that_a_track_does_not_allow_are_refused(setting, make, changes, message):
    with pytest.raises(UserError, match=message):
        trainer_of(make, setting, moves_per_task=10, **changes)


def test_a_completion_does_not_replace_the_best_schedule():
    trainer = trainer_of(random_instance, completions=0.5, moves_per_task=100)
    simulator, memory = trainer.collector.simulator, trainer.memory
    bad = schedule_of(simulator, 0, 0)
    good = improved(simulator.instances[0], SCHEDULE, bad, 100, np.random.default_rng(0))
    memory.whole.offer(0, good)
    memory.completions.offer(0, bad, int(bad.start.max()))
    memory.whole.offer(0, bad)
    assert memory.whole._labels[0].schedule is good
    assert memory.completions._labels[0].schedule is bad
    batch = memory.draw(trainer.network, 1.0, GENERATOR)
    assert len(batch.target) == len(batch.features.task) > 4


@pytest.mark.parametrize(("group", "processes"), [(256, 1), (128, 2), (64, 4)])
def test_whole_groups_are_shared_by_processes(group, processes):
    learner = small_learner(SelfLabelling, num_envs=256, group=group)
    budget = Budget(decisions=10**6, threads=4)
    assert learner.process_count(budget, torch.device("cpu")) == processes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 1}, r"solver\.ranks: value 1: must be at least 2"),
        ({"group": 5}, r"solver\.group: value 5: .*divide solver\.num_envs=16"),
        ({"loss": "mse"}, r"solver\.loss: value 'mse': must be one of cross_entropy, preference"),
        ({"loss": "preference", "moves_per_task": 9}, r"solver\.loss: .*solver\.moves_per_task=0"),
        ({"completions": 0.5}, r"solver\.completions: value 0\.5: .*solver\.moves_per_task"),
        ({"completions": 1.5, "moves_per_task": 9}, r"solver\.completions: .*between 0 and 1"),
        ({"loss": "preference", "decoding": "beam"}, r"loss: value preference: trains no critic"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SelfLabelling(**({"device": "cpu", "num_envs": 16, "group": 4} | changes))
