"""Imitation: which actions are right, what the critic is told, what the teacher is asked, and that it can be learnt."""

import numpy as np
import pytest
import torch

from bench.contracts import Budget, Result
from bench.errors import UserError
from bench.instance import Instance
from bench.left_shift import active
from bench.metrics import objective
from bench.rollout import as_solver
from bench.schedule import Schedule
from bench.setting import Setting
from bench.simulator.tensors import TensorSimulator
from solvers.cpsat import CpSat
from solvers.networks.pairwise import PairNetwork
from solvers.ppo import PPO
from solvers.rl.imitation import FILE, Imitation, Lessons
from solvers.rl.rollouts import play_greedily
from solvers.rules import LJF
from tests.solvers.learning import Fixed, Notes, random_instance, rough, three_tasks, without_clock

GENERATOR = torch.Generator().manual_seed(0)


class Counting:
    """A teacher that counts how often it is asked."""

    def __init__(self, solver=None) -> None:
        self.solver, self.asked = solver or CpSat(threads=1), 0

    def solve(self, instance, setting, budget, rng) -> Result:
        self.asked += 1
        return self.solver.solve(instance, setting, budget, rng)


def taught(instances, setting, count=None):
    """Lessons on CP-SAT's schedules, and these."""
    schedules = [
        CpSat(threads=1).solve(i, setting, Budget(1.0), np.random.default_rng(0)).schedule
        for i in instances
    ]
    simulator = TensorSimulator(instances, setting, count or len(instances))
    return Lessons(schedules, simulator), schedules


def made(instance, agent, start):
    """The schedule that starts the three tasks there and then."""
    start = np.array(start)
    return Schedule(
        np.arange(3),
        np.array(agent),
        start,
        start + instance.duration[np.arange(3), instance.agent_type[agent]],
    )


@pytest.mark.parametrize(
    "make", [random_instance, rough, without_clock], ids=["plain", "quotas and outages", "no clock"]
)
def test_a_lesson_replays_the_schedule_and_tells_the_critic_its_return(make):
    setting = Setting(track="assign") if make is without_clock else Setting()
    instances = [make(np.random.default_rng(seed)) for seed in range(6)]
    lessons, schedules = taught(instances, setting)
    lesson = lessons.replay(torch.arange(6), PairNetwork(8), 1.0, GENERATOR)
    host = lessons.simulator.host()
    for b, (instance, schedule) in enumerate(zip(instances, schedules, strict=True)):
        value = objective(instance, schedule, setting.objective)
        replayed = objective(instance, host.schedule(b), setting.objective)
        assert replayed <= value
        assert float(lesson.target[b]) == pytest.approx(-replayed / host.scale[b])
    assert (lesson.right & ~lesson.seen.mask).sum() == 0
    assert lesson.right.any(dim=1).all()


def test_a_queue_that_leaves_gaps_is_replayed_as_it_is():
    """In commit mode the chosen task waits until it fits: left-shifted, the schedule would need an order that is none."""
    setting, rng = (
        Setting(track="online", observe="arrived", mode="commit"),
        np.random.default_rng(0),
    )
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
    schedules = [as_solver(LJF()).solve(i, setting, Budget(60.0), rng).schedule for i in instances]
    assert any(
        (active(i, s).start < s.start).any() for i, s in zip(instances, schedules, strict=True)
    )
    simulator = TensorSimulator(instances, setting, len(instances))
    lesson = Lessons(schedules, simulator).replay(torch.arange(6), PairNetwork(8), 1.0, GENERATOR)
    assert lesson.right.any(dim=1).all()
    host = simulator.host()
    for b, schedule in enumerate(schedules):
        replayed = host.schedule(b)
        assert (
            replayed.start[np.argsort(replayed.task)].tolist()
            == schedule.start[np.argsort(schedule.task)].tolist()
        )


def test_every_order_of_one_tick_is_right():
    instance = three_tasks(0)
    lessons = Lessons(
        [made(instance, [0, 1, 0], [0, 0, 50])], TensorSimulator([instance], Setting())
    )
    assert lessons.right()[0].nonzero().flatten().tolist() == [0 * 2 + 0, 1 * 2 + 1]


def test_waiting_is_right_where_the_schedule_starts_nothing():
    instance = three_tasks(0)
    simulator = TensorSimulator([instance], Setting())
    lessons = Lessons(
        [made(instance, [0, 0, 0], [0, 20, 40])], simulator
    )  # left-shifted, but all on agent 0: one by one
    assert lessons.right()[0].nonzero().flatten().tolist() == [0 * 2 + 0]
    simulator.step(torch.tensor([0]))
    assert simulator.state.mask[0, 1], "task 1 could start on agent 1"
    assert lessons.right()[0].nonzero().flatten().tolist() == [simulator.state.mask.shape[1] - 1]


def test_an_answer_is_kept_and_not_asked_for_again(tmp_path):
    instances, teacher = (
        [random_instance(np.random.default_rng(seed)) for seed in range(5)],
        Counting(),
    )
    first = Imitation(teacher=teacher, instances=3, lessons=str(tmp_path / "kept.json.gz"))
    made, spent = first.ask(instances, Setting(), Notes(tmp_path))
    assert (teacher.asked, sorted(made), spent > 0) == (3, [0, 1, 2], True)
    more = Imitation(teacher=teacher, instances=5, lessons=str(tmp_path / "kept.json.gz"))
    again, cost = more.ask(instances, Setting(), Notes(tmp_path))
    assert (teacher.asked, sorted(again)) == (5, [0, 1, 2, 3, 4])
    assert cost > spent  # what was paid before counts as well
    more.ask(instances, Setting(objective="makespan"), Notes(tmp_path))
    assert teacher.asked == 10, "another objective is another question"


def test_a_teacher_without_a_schedule_is_one_clear_error(tmp_path):
    class Silent:
        def solve(self, instance, setting, budget, rng) -> Result:
            return Result(Schedule.empty(), "unknown")

    with pytest.raises(UserError, match=r"imitation\.teacher: no schedule .*imitation\.seconds"):
        Imitation(teacher=Silent()).ask(
            [random_instance(np.random.default_rng(0))], Setting(), Notes(tmp_path)
        )


def test_a_pupil_gets_close_to_its_teacher_before_it_plays(tmp_path):
    data = Fixed(lambda rng: random_instance(rng, 5, 2), 48)
    learner = PPO(
        device="cpu", width=16, rounds=1, envs=16, steps=4, minibatch=64, lr=1e-9,
        imitation=Imitation(teacher=CpSat(threads=1), seconds=0.3, epochs=12, together=16, minibatch=64),
    )  # fmt: skip
    notes = Notes(tmp_path)
    policy = learner.fit(
        data, Setting(), Budget(decisions=64, threads=1), np.random.default_rng(0), notes
    )
    train = list(data.instances("train"))
    torch.manual_seed(0)
    best, untrained = (
        play_greedily(network, TensorSimulator(train, Setting())).numpy()
        for network in (policy.network, PairNetwork(16, 1))
    )
    teacher = Imitation(teacher=CpSat(threads=1), seconds=0.3).ask(train, Setting(), notes)[0]
    scale = TensorSimulator(train, Setting()).scale.numpy()
    goal = np.array([-objective(i, teacher[k], "total_time") for k, i in enumerate(train)]) / scale
    assert (goal - best).mean() < 0.4 * (goal - untrained).mean()
    assert (tmp_path / FILE).exists()
    assert notes.facts["learning/cpu_seconds"] > 0.3
