"""The simulator on small cases computed by hand, and random legal play checked by the verifier.

The rules are those of `bench/docs/problem.md`, section 5.
"""

import numpy as np
import pytest

from bench import metrics
from bench.contracts import Budget, Policy
from bench.errors import UserError
from bench.instance import Instance, InstanceError, Outage
from bench.rollout import PolicySolver, as_solver, setting_of
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting, SettingError
from bench.simulator import IllegalAction, Simulator
from bench.simulator.tables import END, NO_ACTION, TIME
from bench.verify import verify
from tests.solvers.learning import complex_fields, complex_instance, with_outages

ONLINE = {"track": "online", "observe": "arrived"}
COMMIT = {**ONLINE, "mode": "commit"}


def make_instance(duration, demand=1, capacity=(1,), release=None, **more):
    """Return tasks of one resource on agents of one type each.

    `duration` is (N,) or (N, M), `demand` a scalar or (N,).
    """
    duration = np.asarray(duration)
    m = len(capacity)
    duration = np.repeat(duration[:, None], m, axis=1) if duration.ndim == 1 else duration
    demand = np.broadcast_to(np.asarray(demand), len(duration))[:, None, None].repeat(m, axis=1)
    return Instance(
        duration, demand, np.asarray(capacity)[:, None], np.arange(m), release=release, **more
    )


class Episode:
    """One environment; actions are (task index in the instance, agent) pairs and "wait"."""

    def __init__(self, instance, *, window=None, max_decisions=None, shaped=False, **setting):
        more = {} if max_decisions is None else {"max_decisions": max_decisions}
        self.simulator = Simulator(
            [instance], Setting(**setting), window=window, shaped=shaped, **more
        )
        self.order = np.lexsort((np.arange(instance.n_tasks), instance.release))
        self.m = instance.n_agents
        self.total = 0.0

    @property
    def legal(self):
        mask = self.simulator.state.mask[0]
        shown = self.simulator.state.window[0]
        pairs = {
            (int(self.order[shown[x // self.m]]), int(x % self.m))
            for x in np.flatnonzero(mask[:-1])
        }
        return pairs | ({"wait"} if mask[-1] else set())

    @property
    def time(self):
        return int(self.simulator.state.env[0, TIME])

    def play(self, *pairs):
        for pair in pairs:
            assert pair in self.legal
            action = self.simulator.n_actions - 1
            if pair != "wait":
                shown = self.order[self.simulator.state.window[0]].tolist()
                action = shown.index(pair[0]) * self.m + pair[1]
            self.total += self.simulator.step(np.array([action]))[0]
        return self

    @property
    def pieces(self):
        table = self.simulator.schedule(0)
        return sorted(
            zip(
                *(c.tolist() for c in (table.task, table.agent, table.start, table.end)),
                strict=True,
            )
        )


# -- fit mode --------------------------------------------------------------------------------------


def test_fit_mode_allows_tasks_that_fit_now_and_wait_while_a_task_runs():
    episode = Episode(make_instance([4, 2, 3], demand=[2, 1, 2], capacity=(2, 1)), **ONLINE)
    # no task runs and no known event lies ahead: wait is illegal
    assert episode.legal == {(0, 0), (1, 0), (1, 1), (2, 0)}
    episode.play((1, 1))
    assert episode.legal == {(0, 0), (2, 0), "wait"}
    episode.play((0, 0))
    assert episode.time == 0
    assert episode.legal == {"wait"}
    episode.play("wait")
    assert episode.time == 2  # the next event is task 1's completion
    assert episode.legal == {"wait"}
    episode.play("wait", (2, 0))
    assert episode.simulator.terminated[0]
    assert episode.pieces == [(0, 0, 0, 4), (1, 1, 0, 2), (2, 0, 4, 7)]


def test_an_empty_queue_advances_the_clock_to_the_next_arrival():
    episode = Episode(make_instance([2, 2], release=[5, 9]), **ONLINE)
    assert episode.time == 5
    assert episode.play((0, 0)).time == 9


def test_wait_is_legal_before_a_known_arrival_and_not_before_a_hidden_one():
    instance = make_instance([2, 2], release=[0, 9])
    assert Episode(instance, **ONLINE).legal == {(0, 0)}
    episode = Episode(instance)
    assert episode.legal == {(0, 0), "wait"}
    assert episode.play("wait").time == 9
    assert episode.legal == {(0, 0), (1, 0)}


def test_observe_all_shows_unreleased_tasks_masked():
    instance = make_instance([2, 3, 4], release=[0, 9, 5], capacity=(1, 1))
    observation = Simulator([instance], Setting()).observation(0)
    assert observation.release.tolist() == [0, 5, 9]
    assert observation.legal.tolist() == [[True, True], [False, False], [False, False]]
    assert Simulator([instance], Setting(**ONLINE)).observation(0).release.tolist() == [0]


def test_no_task_may_run_into_an_announced_outage_which_is_an_event_for_wait():
    episode = Episode(make_instance([5, 3], outages=[Outage(0, 4, 6)]), **ONLINE)
    assert episode.legal == {(1, 0), "wait"}  # task 0 would run into the outage
    episode.play((1, 0), "wait")
    assert episode.time == 3
    episode.play("wait")  # no task runs; the known outage starts at 4 and ends at 6
    assert episode.time == 4
    assert episode.play("wait").time == 6
    episode.play((0, 0))
    assert episode.pieces == [(0, 0, 6, 11), (1, 0, 0, 3)]


def test_an_unannounced_outage_is_no_event_for_wait():
    instance = make_instance(
        [2, 2], capacity=(1, 1), release=[1, 1], outages=[Outage(0, 0, 4, announced=False)]
    )
    episode = Episode(instance, **ONLINE)
    assert episode.legal == {(0, 1), (1, 1)}
    instance = make_instance([2, 2], release=[1, 1], outages=[Outage(0, 0, 4, announced=False)])
    assert Episode(instance, **ONLINE).time == 4  # no action was legal before


def test_an_unannounced_outage_kills_the_task_and_the_schedule_keeps_the_piece():
    episode = Episode(make_instance([5, 1], outages=[Outage(0, 3, 4, announced=False)]), **ONLINE)
    episode.play((0, 0), "wait")
    assert episode.time == 4  # the agent is away at 3, so no action is legal until 4
    assert episode.legal == {(0, 0), (1, 0)}
    episode.play((0, 0), "wait", (1, 0))
    assert episode.pieces == [(0, 0, 0, 3), (0, 0, 4, 9), (1, 0, 9, 10)]
    assert episode.total * episode.simulator.scale[0] == pytest.approx(-(9 + 10))


def test_a_task_with_a_wrong_estimate_is_killed_by_an_announced_outage():
    instance = make_instance([6], estimate=[[2]], outages=[Outage(0, 3, 5), Outage(0, 12, 13)])
    episode = Episode(instance, **ONLINE)
    episode.play((0, 0))
    assert episode.time == 3
    episode.play("wait", (0, 0))
    assert episode.pieces == [(0, 0, 0, 3), (0, 0, 5, 11)]
    assert Episode(instance).legal == {"wait"}  # clairvoyant: the true 6 ticks do not fit before 3


def test_quotas_limit_the_units_held_on_all_agents():
    instance = make_instance([3, 3, 3], capacity=(2, 2), tenant=[0, 0, 1], quota=[[1], [2]])
    episode = Episode(instance, **ONLINE).play((0, 0))
    assert episode.legal == {(2, 0), (2, 1), "wait"}
    episode.play((2, 1), "wait")
    assert episode.legal == {(1, 0), (1, 1)}


def test_completions_precede_arrivals_with_batched_events_and_follow_with_sequential_ones():
    instance = make_instance([4, 1], release=[0, 4])
    assert Episode(instance, **ONLINE).play((0, 0)).legal == {
        (1, 0)
    }  # at 4 the agent is free already
    sequential = Episode(instance, **ONLINE, event_order="sequential").play((0, 0))
    # the arrival is applied first, then a decision follows
    assert (sequential.time, sequential.legal) == (4, {"wait"})
    assert sequential.play("wait").legal == {(1, 0)}


def test_the_start_of_an_outage_precedes_an_arrival_at_the_same_tick():
    instance = make_instance([2, 2], release=[0, 3], outages=[Outage(0, 3, 5)])
    episode = Episode(instance, **ONLINE).play((0, 0))
    assert (episode.time, episode.legal) == (3, {"wait"})


def test_actions_name_only_tasks_in_the_window():
    episode = Episode(make_instance([1, 2, 3, 4], capacity=(1, 1)), window=2, **ONLINE)
    assert episode.legal == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert episode.play((0, 0)).legal == {(1, 1), (2, 1), "wait"}


def test_the_clock_advances_if_no_task_in_the_window_is_legal():
    instance = make_instance(
        [[2, -1], [-1, 2]], capacity=(1, 1), outages=[Outage(0, 0, 4, announced=False)]
    )
    assert Episode(instance, window=2, **ONLINE).legal == {(1, 1)}
    episode = Episode(instance, window=1, **ONLINE)
    assert (episode.time, episode.legal) == (4, {(0, 0)})


# -- commit mode -----------------------------------------------------------------------------------


def test_a_committed_task_waits_and_no_other_task_starts_before_it():
    episode = Episode(
        make_instance([5, 2, 1], demand=[1, 2, 1], capacity=(2,), release=[0, 1, 2]), **COMMIT
    )
    episode.play((0, 0))
    assert episode.legal == {(1, 0)}  # legal though it does not fit now; wait is not
    episode.play((1, 0))
    assert episode.time == 5  # task 2 arrived at 2 and fitted then
    episode.play((2, 0))
    assert episode.pieces == [(0, 0, 0, 5), (1, 0, 5, 7), (2, 0, 7, 8)]


@pytest.mark.parametrize(("length", "start"), [(2, 2), (3, 7), (4, 7)])
def test_easy_backfills_only_tasks_that_end_before_the_reserved_start(length, start):
    instance = make_instance([5, 2, length], demand=[1, 2, 1], capacity=(2,), release=[0, 1, 2])
    episode = Episode(instance, **COMMIT, backfill="easy").play((0, 0), (1, 0))
    if not episode.simulator.terminated[0]:
        episode.play((2, 0))
    assert episode.pieces == [(0, 0, 0, 5), (1, 0, 5, 7), (2, 0, start, start + length)]


def test_the_reserved_start_follows_visible_ends_and_announced_outages():
    instance = make_instance(
        [5, 2, 6], demand=[1, 2, 1], capacity=(2, 1), outages=[Outage(0, 5, 8)], release=[0, 1, 1]
    )
    episode = Episode(instance, **COMMIT, backfill="easy").play((0, 0), (1, 0))
    # task 2 ends at 1 + 6, before the reserved start at 8
    assert episode.pieces == [(0, 0, 0, 5), (1, 0, 8, 10), (2, 1, 1, 7)]


def test_any_task_may_backfill_during_an_unannounced_outage():
    instance = make_instance(
        [[3, -1], [9, 9]], capacity=(1, 1), outages=[Outage(0, 0, 6, announced=False)]
    )
    episode = Episode(instance, **COMMIT, backfill="easy").play((0, 0))
    assert episode.pieces == [(0, 0, 6, 9), (1, 1, 0, 9)]


# -- budget sharing --------------------------------------------------------------------------------


def test_a_dead_end_of_budget_sharing_costs_the_penalty():
    instance = make_instance(
        [[3, 4], [5, 2], [7, 6]], demand=[2, 1, 3], capacity=(3, 3), sharing="budget"
    )
    good = Episode(instance, track="assign").play((2, 1), (0, 0), (1, 0))
    assert good.simulator.terminated[0]
    assert not good.simulator.dead_end(0)
    assert good.total * good.simulator.scale[0] == pytest.approx(-(6 + 3 + 5))
    bad = Episode(instance, track="assign").play((0, 0), (1, 1))
    # task 2 has a demand of 3 units and fits on no agent any more
    assert bad.simulator.dead_end(0)
    assert bad.simulator.terminated[0]
    assert bad.legal == set()
    assert bad.total * bad.simulator.scale[0] == pytest.approx(
        -(3 + 2 + metrics.penalty(instance, "total_time"))
    )
    assert "task 2 is not assigned to any agent" in verify(instance, bad.simulator.schedule(0))


# -- actions, ends, batches ------------------------------------------------------------------------


@pytest.mark.parametrize("action", [0, 2, 3, 4, -1, -2, 5, 99])
def test_an_illegal_action_is_an_error(action):
    simulator = Simulator(
        [make_instance([4, 2], demand=[2, 2], capacity=(1, 2), release=[0, 9])],
        Setting(**ONLINE),
        window=2,
    )
    assert np.flatnonzero(simulator.state.mask[0]).tolist() == [1]  # task 0 on agent 1
    with pytest.raises(IllegalAction, match=f"environment 0: action {action} is masked"):
        simulator.step(np.array([action]))


def test_a_finished_environment_takes_no_action():
    simulator = Simulator([make_instance([4])], Setting())
    simulator.step(np.array([0]))
    assert not simulator.state.mask.any()
    with pytest.raises(IllegalAction, match="its episode is over"):
        simulator.step(np.array([0]))


def test_wrong_numbers_of_actions_and_environments_are_errors():
    simulator = Simulator([make_instance([4])], Setting(), num_envs=2)
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
        simulator.step(np.zeros(3, dtype=int))
    for environments, instances in (([2], [0]), ([0], [1]), ([-1], [0]), ([0, 1], [0])):
        with pytest.raises(ValueError, match="each an index in range"):
            simulator.reset(environments, instances)


def test_truncation_differs_from_termination():
    episode = Episode(make_instance([4, 2, 3], capacity=(3,)), max_decisions=2, **ONLINE).play(
        (0, 0), (1, 0)
    )
    assert episode.simulator.truncated[0]
    assert not episode.simulator.terminated[0]
    assert episode.legal == {(2, 0), "wait"}  # a critic can evaluate the last state
    episode = Episode(make_instance([4, 2], capacity=(3,)), max_decisions=2, **ONLINE).play(
        (0, 0), (1, 0)
    )
    assert episode.simulator.terminated[0]
    assert not episode.simulator.truncated[0]


def test_settings_that_cannot_be_played_are_errors():
    with pytest.raises(SettingError, match="tardiness needs due dates"):
        Simulator([make_instance([1])], Setting(objective="tardiness"))
    with pytest.raises(ValueError, match="shaped: value True: not available"):
        Simulator(
            [make_instance([1], outages=[Outage(0, 3, 4, announced=False)])], Setting(), shaped=True
        )
    with pytest.raises(ValueError, match="same number of resources"):
        Simulator([make_instance([1]), Instance([[1]], [[[1, 1]]], [[1, 1]], [0])], Setting())


def test_a_policy_solver_returns_the_schedule_of_the_policy():
    class First(Policy):
        def act(self, observation, rng):
            return int(np.flatnonzero(observation.mask)[0])

    result = PolicySolver(First()).solve(
        make_instance([4, 2, 3]), Setting(), Budget(), np.random.default_rng(0)
    )
    assert result.schedule.start.tolist() == [0, 4, 6]
    # after each of the first two tasks follows a wait, because the next one does not fit
    assert result.info == {"decisions": 5}
    assert len(result.latency) == 5
    with pytest.raises(UserError, match="object is neither a solver nor a policy"):
        as_solver(object())
    assert setting_of(First(), Setting()).observe == "all"


# -- random instances, random legal play -----------------------------------------------------------


def random_outages(rng, n_agents):
    outages = []
    for a in range(n_agents):
        start = int(rng.integers(0, 15))
        for _ in range(int(rng.integers(0, 3))):
            end = start + int(rng.integers(1, 6))
            outages.append(Outage(a, start, end, bool(rng.random() < 0.6)))
            start = end + int(rng.integers(0, 8))
    return outages


def random_instance(rng, sharing, resources):
    """Return up to 8 tasks on up to 3 agents of up to 2 types.

    Quotas, outages and wrong estimates are present in some of the instances.
    """
    n, m, t = (int(rng.integers(1, high)) for high in (9, 4, 3))
    while True:
        duration = rng.integers(1, 12, (n, t))
        duration[rng.random((n, t)) < 0.15] = -1
        more = {}
        if rng.random() < 0.5:
            more.update(tenant=rng.integers(0, 2, n), quota=rng.integers(3, 9, (2, resources)))
        if sharing == "time":
            more.update(release=rng.integers(0, 20, n), due=rng.integers(0, 40, n))
            if rng.random() < 0.6:
                more.update(outages=random_outages(rng, m))
            if rng.random() < 0.5:
                wrong = np.maximum(1, duration + rng.integers(-5, 6, duration.shape))
                more.update(estimate=np.where(duration == -1, -1, wrong))
        capacity = rng.integers(3, 9, (m, resources)) * (2 if sharing == "budget" else 1)
        demand = rng.integers(0, 5, (n, t, resources))
        tick = float(rng.choice([1.0, 7.0, 60.0]))
        weight, types = rng.integers(0, 4, n), rng.integers(0, t, m)
        try:
            return Instance(
                duration,
                demand,
                capacity,
                types,
                weight=weight,
                sharing=sharing,
                tick_seconds=tick,
                **more,
            )
        except InstanceError:  # no agent can run some task
            continue


def random_setting(rng, sharing):
    if sharing == "budget":
        return Setting(track="assign", observe=str(rng.choice(["all", "arrived"])))
    mode = str(rng.choice(["fit", "commit"]))
    return Setting(
        objective=str(rng.choice(OBJECTIVES)),
        mode=mode,
        backfill="easy" if mode == "commit" and rng.random() < 0.5 else "none",
        observe=str(rng.choice(["all", "arrived"])),
        event_order=str(rng.choice(["batched", "sequential"])),
    )


def verify_random_play(rng, sharing, batch):
    """Play `batch` random instances; verify every schedule and compare its return.

    Returns the number of dead ends and the number of schedules with killed tasks.
    """
    setting, resources = random_setting(rng, sharing), int(rng.integers(1, 3))
    shaped = bool(rng.random() < 0.2)
    instances = [random_instance(rng, sharing, resources) for _ in range(batch)]
    if shaped:
        instances = [
            i for i in instances if not i.may_kill and np.array_equal(i.estimate, i.duration)
        ]
        if not instances:
            return 0, 0
    simulator = Simulator(instances, setting, window=int(rng.integers(1, 10)), shaped=shaped)
    returns = simulator.play_random(rng)
    dead = kills = 0
    for b, instance in enumerate(instances):
        schedule = simulator.schedule(b)
        violations = verify(instance, schedule)
        assert bool(violations) == simulator.dead_end(b), (setting, violations)
        objective = metrics.objective(instance, schedule, setting.objective)
        assert -returns[b, 1] * simulator.scale[b] == pytest.approx(
            objective, rel=1e-6, abs=1e-9
        ), setting
        assert returns[b, 0] == 1
        dead += simulator.dead_end(b)
        kills += len(schedule.task) > instance.n_tasks
    return dead, kills


def test_random_legal_play_of_time_sharing_is_feasible_and_its_return_is_the_objective():
    rng = np.random.default_rng(1)
    outcomes = [verify_random_play(rng, "time", 50) for _ in range(50)]
    assert sum(dead for dead, _ in outcomes) == 0
    assert sum(kills for _, kills in outcomes) > 25


def test_random_legal_play_of_budget_sharing_is_infeasible_only_after_a_dead_end():
    rng = np.random.default_rng(2)
    outcomes = [verify_random_play(rng, "budget", 50) for _ in range(20)]
    assert 10 < sum(dead for dead, _ in outcomes) < 900


@pytest.mark.parametrize(
    ("sharing", "mode"), [("time", "fit"), ("time", "commit"), ("budget", "fit")]
)
def test_a_batch_of_environments_equals_single_ones_whatever_the_padding(sharing, mode):
    rng = np.random.default_rng(3)
    instances = [random_instance(rng, sharing, 2) for _ in range(40)]
    setting = (
        Setting(track="assign") if sharing == "budget" else Setting(objective="makespan", mode=mode)
    )
    many = Simulator(instances, setting)
    alone = [Simulator([i], setting, window=many.window) for i in instances]
    while not many.terminated.all():
        actions = np.full(len(instances), NO_ACTION)
        rewards = np.zeros(len(instances))
        for b in np.flatnonzero(~many.terminated):
            padded, single = many.observation(b), alone[b].observation(0)
            for name in vars(padded):
                assert np.array_equal(getattr(padded, name), getattr(single, name)), name
            choice = int(rng.choice(np.flatnonzero(padded.mask)))
            actions[b] = many.flat(choice, padded)
            rewards[b] = alone[b].step(np.array([alone[b].flat(choice, single)]))[0]
        playing = actions != NO_ACTION
        assert (many.step(actions)[playing] == rewards[playing]).all()
    for b, one in enumerate(alone):
        assert many.schedule(b).to_dict() == one.schedule(0).to_dict()


def test_equal_seeds_give_equal_schedules_and_different_seeds_different_ones():
    instances = [random_instance(np.random.default_rng(5), "time", 1) for _ in range(3)]

    def play(seed):
        simulator = Simulator(instances, Setting(), num_envs=6)
        simulator.play_random(np.random.default_rng(seed))
        return [simulator.schedule(b).to_dict() for b in range(6)]

    assert play(7) == play(7)
    assert play(7) != play(8)


def test_play_random_with_restart_plays_episodes_until_the_number_of_decisions():
    simulator = Simulator([make_instance([4, 2, 3])], Setting(**ONLINE), num_envs=2)
    played = simulator.play_random(np.random.default_rng(0), decisions=60, restart=True)
    assert (played[:, 0] >= 10).all()  # an episode takes 3 to 5 decisions
    # the scale is the sum of p_j, which no total time is below
    assert (played[:, 1] / played[:, 0] <= -1).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rewards_of_each_step_equal_those_computed_by_hand(objective):
    """Task 0 (due 3, weight 2) runs [0, 4), task 1 (due 5, released at 1) waits and runs [4, 6)."""
    instance = make_instance([4, 2], release=[0, 1], due=[3, 5], weight=[2, 1], tick_seconds=10.0)
    simulator = Simulator([instance], Setting(objective=objective, **ONLINE))
    paid = []
    # start task 0 (until the arrival at 1), wait (until 4), start task 1 (until the end)
    for action in (0, 2, 0):
        paid.append(float(-simulator.step(np.array([action]))[0] * simulator.scale[0]))
    assert simulator.scale[0] == 2 * 4 + 2
    assert paid == pytest.approx(
        {
            "total_time": [2 * 1, 3 * 3, 1 * 2],
            "makespan": [0, 4, 2],
            "tardiness": [0, 2 * 1, 1],
            "bounded_slowdown": [0, 1 / 2, (5 / 2) / 2],
        }[objective]
    )


def test_shaped_rewards_have_the_same_total_paid_at_assignment():
    instance = make_instance([4, 2], release=[0, 1], due=[3, 5], weight=[2, 1])
    for objective, expected in (
        ("total_time", [8, 0, 5]),
        ("makespan", [4, 0, 2]),
        ("tardiness", [2, 0, 1]),
    ):
        simulator = Simulator([instance], Setting(objective=objective, **ONLINE), shaped=True)
        paid = [
            float(-simulator.step(np.array([action]))[0] * simulator.scale[0])
            for action in (0, 2, 0)
        ]
        assert paid == pytest.approx(expected)


def test_schedules_use_the_numbering_of_the_instance():
    instance = make_instance([3, 4], release=[6, 0])
    simulator = Simulator([instance], Setting(**ONLINE))
    simulator.step(np.array([0]))
    assert simulator.state.task[0, END, 0] == 4  # in the tables, tasks are numbered by release
    simulator.step(np.array([0]))
    assert simulator.schedule(0).to_dict() == Schedule([1, 0], [0, 0], [0, 6], [4, 9]).to_dict()


def test_replaced_instances_are_played_like_those_that_a_simulator_began_with():
    rng = np.random.default_rng(0)
    largest = with_outages(complex_fields(rng, 12, np.sort(rng.integers(0, 20, 12))))
    first = [largest, *(complex_instance(rng, 5 + k) for k in range(3))]
    second = [complex_instance(rng, n) for n in (9, 4)]
    setting = Setting(track="online", observe="arrived")
    replaced = Simulator(first, setting)
    replaced.replace([1, 3], second)
    afresh = Simulator([first[0], second[0], first[2], second[1]], setting)
    for name, one in replaced.tables._asdict().items():
        assert np.array_equal(one, getattr(afresh.tables, name)), name
    assert [x.hash() for x in replaced.instances] == [x.hash() for x in afresh.instances]
    with pytest.raises(ValueError, match="exceed"):
        replaced.replace([0], [complex_instance(rng, 13)])
