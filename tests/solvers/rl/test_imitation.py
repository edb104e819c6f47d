"""Behavioural cloning: demonstrated actions, returns, stored schedules, and what is learned."""

import numpy as np
import pytest
import torch

from bench.contracts import Budget, Result, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.left_shift import active
from bench.metrics import objective
from bench.rollout import as_solver
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.cpsat import CpSat
from solvers.networks.pairwise import PairwiseNetwork
from solvers.ppo import PPO
from solvers.rl.imitation import FILE, OLD_FILE, DemonstrationReplay, Imitation
from solvers.rl.rollouts import play_greedily
from solvers.rules import LJF
from tests.solvers.learning import (
    FixedDataset,
    MemoryLogger,
    budget_instance,
    complex_instance,
    random_instance,
    three_tasks,
)

GENERATOR = torch.Generator().manual_seed(0)


class Counting(Solver):
    """A teacher that counts the instances it solves."""

    def __init__(self, solver=None) -> None:
        self.solver = solver or CpSat(threads=1)
        self.solved = 0

    def hashed_settings(self):
        return {"solver": self.solver}

    def solve(self, instance, setting, budget, rng) -> Result:
        self.solved += 1
        return self.solver.solve(instance, setting, budget, rng)


def demonstrated(instances, setting, count=None):
    """Return a replay of CP-SAT's schedules, and the schedules."""
    schedules = [
        CpSat(threads=1).solve(i, setting, Budget(3600.0), np.random.default_rng(0)).schedule
        for i in instances
    ]
    simulator = TensorSimulator(instances, setting, count or len(instances))
    return DemonstrationReplay(schedules, simulator), schedules


def schedule_of(instance, agent, start):
    """Return the schedule that starts the three tasks on these agents at these ticks."""
    start = np.array(start)
    return Schedule(
        np.arange(3),
        np.array(agent),
        start,
        start + instance.duration[np.arange(3), instance.agent_type[agent]],
    )


def scheduled_actions(replay):
    """Return the flat actions that follow the schedule in environment 0."""
    return replay.scheduled_actions()[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    "make",
    [random_instance, complex_instance, budget_instance],
    ids=["plain", "quotas and outages", "budget sharing"],
)
def test_a_replay_reproduces_the_schedule_and_its_return(make):
    setting = Setting(track="assign") if make is budget_instance else Setting()
    instances = [make(np.random.default_rng(seed)) for seed in range(6)]
    replay, schedules = demonstrated(instances, setting)
    batch = replay.replay(torch.arange(6), PairwiseNetwork(8), 1.0, GENERATOR)
    host = replay.simulator.host()
    for b, (instance, schedule) in enumerate(zip(instances, schedules, strict=True)):
        value = objective(instance, schedule, setting.objective)
        replayed = objective(instance, host.schedule(b), setting.objective)
        assert replayed <= value
        assert float(batch.target[b]) == pytest.approx(-replayed / host.scale[b])
    assert (batch.scheduled & ~batch.features.mask).sum() == 0
    assert batch.scheduled.any(dim=1).all()


def test_a_queue_that_leaves_gaps_is_replayed_as_it_is():
    """In commit mode the chosen task waits until it fits.

    No order of service leads to the left-shifted schedule.
    """
    setting = Setting(track="online", observe="arrived", mode="commit")
    rng = np.random.default_rng(0)
    instances = [
        Instance(
            rng.integers(1, 30, (20, 1)),
            rng.integers(1, 9, (20, 1, 1)),
            [[8]],
            [0],
            release=np.sort(rng.integers(0, 60, 20)),
        )
        for _ in range(6)
    ]
    schedules = [
        as_solver(LJF()).solve(i, setting, Budget(3600.0), rng).schedule for i in instances
    ]
    assert any(
        (active(i, s).start < s.start).any() for i, s in zip(instances, schedules, strict=True)
    )
    simulator = TensorSimulator(instances, setting, len(instances))
    batch = DemonstrationReplay(schedules, simulator).replay(
        torch.arange(6), PairwiseNetwork(8), 1.0, GENERATOR
    )
    assert batch.scheduled.any(dim=1).all()
    host = simulator.host()
    for b, schedule in enumerate(schedules):
        replayed = host.schedule(b)
        assert (
            replayed.start[np.argsort(replayed.task)].tolist()
            == schedule.start[np.argsort(schedule.task)].tolist()
        )


def test_all_tasks_that_start_at_one_tick_follow_the_schedule():
    instance = three_tasks(0)
    replay = DemonstrationReplay(
        [schedule_of(instance, [0, 1, 0], [0, 0, 50])], TensorSimulator([instance], Setting())
    )
    assert scheduled_actions(replay) == [0 * 2 + 0, 1 * 2 + 1]


def test_waiting_follows_a_schedule_that_starts_nothing_now():
    instance = three_tasks(0)
    simulator = TensorSimulator([instance], Setting())
    # all on agent 0, which holds one: one by one even if left-shifted
    replay = DemonstrationReplay([schedule_of(instance, [0, 0, 0], [0, 20, 40])], simulator)
    assert scheduled_actions(replay) == [0 * 2 + 0]
    simulator.step(torch.tensor([0]))
    assert simulator.state.mask[0, 1], "task 1 could start on agent 1"
    assert scheduled_actions(replay) == [simulator.state.mask.shape[1] - 1]


def test_a_stored_schedule_is_not_computed_again(tmp_path):
    instances = [random_instance(np.random.default_rng(seed)) for seed in range(5)]
    teacher, logger = Counting(), MemoryLogger(tmp_path)
    path = str(tmp_path / "kept.json.gz")
    three = Imitation(teacher=teacher, instances=3, demonstrations=path)
    found, spent = three.collect_demonstrations(instances, Setting(), logger)
    assert (teacher.solved, sorted(found), spent > 0) == (3, [0, 1, 2], True)
    five = Imitation(teacher=teacher, instances=5, demonstrations=path)
    again, cost = five.collect_demonstrations(instances, Setting(), logger)
    assert (teacher.solved, sorted(again)) == (5, [0, 1, 2, 3, 4])
    assert cost > spent  # the CPU seconds of stored schedules count as well
    five.collect_demonstrations(instances, Setting(objective="makespan"), logger)
    assert teacher.solved == 10, "another objective needs other schedules"


def test_the_file_of_an_earlier_version_is_read(tmp_path):
    instances, teacher = [random_instance(np.random.default_rng(0))], Counting()
    imitation, logger = Imitation(teacher=teacher), MemoryLogger(tmp_path)
    found, _ = imitation.collect_demonstrations(instances, Setting(), logger)
    (tmp_path / FILE).rename(tmp_path / OLD_FILE)
    again, _ = imitation.collect_demonstrations(instances, Setting(), logger)
    assert teacher.solved == 1
    assert again[0].start.tolist() == found[0].start.tolist()


def test_a_teacher_without_a_schedule_is_one_clear_error(tmp_path):
    class Silent(Solver):
        def solve(self, instance, setting, budget, rng) -> Result:
            return Result(Schedule.empty(), "unknown")

    with pytest.raises(UserError, match=r"imitation\.teacher: no schedule .*imitation\.seconds"):
        Imitation(teacher=Silent()).collect_demonstrations(
            [random_instance(np.random.default_rng(0))], Setting(), MemoryLogger(tmp_path)
        )


def test_a_pretrained_policy_is_close_to_its_teacher(tmp_path):
    data = FixedDataset(lambda rng: random_instance(rng, 5, 2), 48)
    learner = PPO(
        device="cpu",
        width=16,
        message_passing_rounds=1,
        num_envs=16,
        steps=4,
        minibatch=64,
        lr=1e-9,
        imitation=Imitation(
            teacher=CpSat(threads=1), seconds=3600.0, epochs=12, num_envs=16, minibatch=64
        ),
    )
    logger = MemoryLogger(tmp_path)
    policy = learner.fit(
        data, Setting(), Budget(decisions=64, threads=1), np.random.default_rng(0), logger
    )
    train = list(data.instances("train"))
    torch.manual_seed(0)
    pretrained, untrained = (
        play_greedily(network, TensorSimulator(train, Setting())).numpy()
        for network in (policy.network, PairwiseNetwork(16, 1))
    )
    teacher = Imitation(teacher=CpSat(threads=1), seconds=3600.0)
    schedules, seconds = teacher.collect_demonstrations(train, Setting(), logger)
    scale = TensorSimulator(train, Setting()).scale.numpy()
    costs = np.array([objective(i, schedules[k], "total_time") for k, i in enumerate(train)])
    goal = -costs / scale
    assert (goal - pretrained).mean() < 0.4 * (goal - untrained).mean()
    assert (tmp_path / FILE).exists()
    assert logger.facts["learning/cpu_seconds"] > seconds > 0  # those of the teacher count
