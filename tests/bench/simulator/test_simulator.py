"""The simulator against SPEC section 5 by hand, and against the judge on random instances played at random."""

import numpy as np
import pytest

from bench import metrics
from bench.contracts import Budget
from bench.instance import Instance, InstanceError, Outage
from bench.rollout import PolicySolver, as_solver, played_as
from bench.schedule import Schedule
from bench.setting import OBJECTIVES, Setting, SettingError
from bench.simulator import IllegalAction, Simulator
from bench.simulator.tables import END, LEAVE, TIME
from bench.verify import verify

ONLINE = {"track": "online", "observe": "arrived"}
COMMIT = {**ONLINE, "mode": "commit"}


def jobs(duration, demand=1, capacity=(1,), release=None, **more):
    """Tasks of one resource on agents of one type each; `duration` (N,) or (N, M), `demand` scalar or (N,)."""
    duration = np.asarray(duration)
    m = len(capacity)
    duration = np.repeat(duration[:, None], m, axis=1) if duration.ndim == 1 else duration
    demand = np.broadcast_to(np.asarray(demand), len(duration))[:, None, None].repeat(m, axis=1)
    return Instance(
        duration, demand, np.asarray(capacity)[:, None], np.arange(m), release=release, **more
    )


class Game:
    """One environment, played by (task index in the instance, agent) pairs and "wait"."""

    def __init__(self, instance, *, window=None, limit=None, shaped=False, **setting):
        more = {} if limit is None else {"limit": limit}
        self.simulator = Simulator(
            [instance], Setting(**setting), window=window, shaped=shaped, **more
        )
        self.order = np.lexsort((np.arange(instance.n_tasks), instance.release))
        self.m, self.total = instance.n_agents, 0.0

    @property
    def legal(self):
        mask, shown = self.simulator.state.mask[0], self.simulator.state.window[0]
        pairs = {
            (int(self.order[shown[x // self.m]]), int(x % self.m))
            for x in np.flatnonzero(mask[:-1])
        }
        return pairs | ({"wait"} if mask[-1] else set())

    @property
    def time(self):
        return int(self.simulator.state.env[0, TIME])

    def play(self, *moves):
        for move in moves:
            assert move in self.legal
            action = self.simulator.n_actions - 1
            if move != "wait":
                shown = self.order[self.simulator.state.window[0]].tolist()
                action = shown.index(move[0]) * self.m + move[1]
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


# -- fit mode ------------------------------------------------------------------------------------------------------


def test_fit_mode_offers_what_fits_now_and_wait_while_something_runs():
    game = Game(jobs([4, 2, 3], demand=[2, 1, 2], capacity=(2, 1)), **ONLINE)
    assert game.legal == {
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 0),
    }  # nothing runs and nothing known lies ahead: no wait
    game.play((1, 1))
    assert game.legal == {(0, 0), (2, 0), "wait"}
    game.play((0, 0))
    assert game.time == 0
    assert game.legal == {"wait"}
    game.play("wait")
    assert game.time == 2  # the next event is task 1's completion
    assert game.legal == {"wait"}
    game.play("wait", (2, 0))
    assert game.simulator.terminated[0]
    assert game.pieces == [(0, 0, 0, 4), (1, 1, 0, 2), (2, 0, 4, 7)]


def test_the_clock_passes_over_empty_queues_by_itself():
    game = Game(jobs([2, 2], release=[5, 9]), **ONLINE)
    assert game.time == 5
    assert game.play((0, 0)).time == 9


def test_a_known_arrival_allows_wait_and_a_hidden_one_does_not():
    instance = jobs([2, 2], release=[0, 9])
    assert Game(instance, **ONLINE).legal == {(0, 0)}
    game = Game(instance)
    assert game.legal == {(0, 0), "wait"}
    assert game.play("wait").time == 9
    assert game.legal == {(0, 0), (1, 0)}


def test_observe_all_shows_tasks_of_the_future_masked():
    instance = jobs([2, 3, 4], release=[0, 9, 5], capacity=(1, 1))
    seen = Simulator([instance], Setting()).observation(0)
    assert seen.release.tolist() == [0, 5, 9]
    assert seen.legal.tolist() == [[True, True], [False, False], [False, False]]
    assert Simulator([instance], Setting(**ONLINE)).observation(0).release.tolist() == [0]


def test_an_announced_outage_is_respected_and_an_event_ahead():
    game = Game(jobs([5, 3], outages=[Outage(0, 4, 6)]), **ONLINE)
    assert game.legal == {(1, 0), "wait"}  # task 0 would run into the outage
    game.play((1, 0), "wait")
    assert game.time == 3
    game.play("wait")  # nothing runs; the known edges at 4 and 6 lie ahead
    assert game.time == 4
    assert game.play("wait").time == 6
    game.play((0, 0))
    assert game.pieces == [(0, 0, 6, 11), (1, 0, 0, 3)]


def test_a_hidden_outage_is_no_event_ahead_and_its_end_is_not_known():
    instance = jobs(
        [2, 2], capacity=(1, 1), release=[1, 1], outages=[Outage(0, 0, 4, announced=False)]
    )
    game = Game(instance, **ONLINE)
    assert game.legal == {(0, 1), (1, 1)}
    instance = jobs([2, 2], release=[1, 1], outages=[Outage(0, 0, 4, announced=False)])
    assert (
        Game(instance, **ONLINE).time == 4
    )  # nothing was legal at all, so the clock moved by itself


def test_an_unannounced_outage_kills_and_the_lost_piece_stays():
    game = Game(jobs([5, 1], outages=[Outage(0, 3, 4, announced=False)]), **ONLINE)
    game.play((0, 0), "wait")
    assert (
        game.time == 4
    )  # away at 3 with nothing known ahead, so time passed until something was legal
    assert game.legal == {(0, 0), (1, 0)}
    game.play((0, 0), "wait", (1, 0))
    assert game.pieces == [(0, 0, 0, 3), (0, 0, 4, 9), (1, 0, 9, 10)]
    assert game.total * game.simulator.scale[0] == pytest.approx(-(9 + 10))


def test_a_wrong_estimate_runs_into_an_announced_outage_and_is_killed():
    instance = jobs([6], estimate=[[2]], outages=[Outage(0, 3, 5), Outage(0, 12, 13)])
    game = Game(instance, **ONLINE)
    game.play((0, 0))
    assert game.time == 3
    game.play("wait", (0, 0))
    assert game.pieces == [(0, 0, 0, 3), (0, 0, 5, 11)]
    assert Game(instance).legal == {"wait"}  # clairvoyant: the true 6 ticks do not fit before 3


def test_quotas_bind_over_all_agents_together():
    instance = jobs([3, 3, 3], capacity=(2, 2), tenant=[0, 0, 1], quota=[[1], [2]])
    game = Game(instance, **ONLINE).play((0, 0))
    assert game.legal == {(2, 0), (2, 1), "wait"}
    game.play((2, 1), "wait")
    assert game.legal == {(1, 0), (1, 1)}


def test_completions_come_before_arrivals_before_decisions():
    instance = jobs([4, 1], release=[0, 4])
    assert Game(instance, **ONLINE).play((0, 0)).legal == {(1, 0)}  # at 4 the agent is free already
    singly = Game(instance, **ONLINE, events="singly").play((0, 0))
    assert (singly.time, singly.legal) == (
        4,
        {"wait"},
    )  # the arrival is taken first, then its decision
    assert singly.play("wait").legal == {(1, 0)}


def test_an_outage_edge_comes_before_the_arrival_of_its_tick():
    instance = jobs([2, 2], release=[0, 3], outages=[Outage(0, 3, 5)])
    game = Game(instance, **ONLINE).play((0, 0))
    assert (game.time, game.legal) == (3, {"wait"})


def test_the_window_shows_and_names_only_its_tasks():
    game = Game(jobs([1, 2, 3, 4], capacity=(1, 1)), window=2, **ONLINE)
    assert game.legal == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert game.play((0, 0)).legal == {(1, 1), (2, 1), "wait"}


def test_a_window_in_which_nothing_can_become_legal_lets_the_clock_move():
    instance = jobs([[2, -1], [-1, 2]], capacity=(1, 1), outages=[Outage(0, 0, 4, announced=False)])
    assert Game(instance, window=2, **ONLINE).legal == {(1, 1)}
    game = Game(instance, window=1, **ONLINE)
    assert (game.time, game.legal) == (4, {(0, 0)})


# -- commit mode ---------------------------------------------------------------------------------------------------


def test_a_committed_task_waits_and_nothing_overtakes():
    game = Game(jobs([5, 2, 1], demand=[1, 2, 1], capacity=(2,), release=[0, 1, 2]), **COMMIT)
    game.play((0, 0))
    assert game.legal == {
        (1, 0)
    }  # does not fit beside task 0, may be named all the same, and there is no wait
    game.play((1, 0))
    assert game.time == 5  # task 2 arrived at 2 and would have fitted
    game.play((2, 0))
    assert game.pieces == [(0, 0, 0, 5), (1, 0, 5, 7), (2, 0, 7, 8)]


@pytest.mark.parametrize(("length", "start"), [(2, 2), (3, 7), (4, 7)])
def test_easy_backfills_only_what_ends_before_the_reserved_start(length, start):
    instance = jobs([5, 2, length], demand=[1, 2, 1], capacity=(2,), release=[0, 1, 2])
    game = Game(instance, **COMMIT, backfill="easy").play((0, 0), (1, 0))
    if not game.simulator.terminated[0]:
        game.play((2, 0))
    assert game.pieces == [(0, 0, 0, 5), (1, 0, 5, 7), (2, 0, start, start + length)]


def test_backfilling_reserves_by_visible_ends_and_behind_announced_outages():
    instance = jobs(
        [5, 2, 6], demand=[1, 2, 1], capacity=(2, 1), outages=[Outage(0, 5, 8)], release=[0, 1, 1]
    )
    game = Game(instance, **COMMIT, backfill="easy").play((0, 0), (1, 0))
    assert game.pieces == [
        (0, 0, 0, 5),
        (1, 0, 8, 10),
        (2, 1, 1, 7),
    ]  # 1 + 6 < 8: the reserved start


def test_nobody_knows_when_a_hidden_outage_ends_so_anything_may_backfill():
    instance = jobs([[3, -1], [9, 9]], capacity=(1, 1), outages=[Outage(0, 0, 6, announced=False)])
    game = Game(instance, **COMMIT, backfill="easy").play((0, 0))
    assert game.pieces == [(0, 0, 6, 9), (1, 1, 0, 9)]


# -- budget sharing ------------------------------------------------------------------------------------------------


def test_budget_sharing_has_no_clock_and_ends_dead_with_the_penalty():
    instance = jobs([[3, 4], [5, 2], [7, 6]], demand=[2, 1, 3], capacity=(3, 3), sharing="budget")
    good = Game(instance, track="assign").play((2, 1), (0, 0), (1, 0))
    assert good.simulator.terminated[0]
    assert not good.simulator.dead_end(0)
    assert good.total * good.simulator.scale[0] == pytest.approx(-(6 + 3 + 5))
    bad = Game(instance, track="assign").play(
        (0, 0), (1, 1)
    )  # task 2 needs 3 units, and fits nowhere any more
    assert bad.simulator.dead_end(0)
    assert bad.simulator.terminated[0]
    assert bad.legal == set()
    assert bad.total * bad.simulator.scale[0] == pytest.approx(
        -(3 + 2 + metrics.penalty(instance, "total_time"))
    )
    assert "task 2 is not assigned to any agent" in verify(instance, bad.simulator.schedule(0))


# -- actions, ends, batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [0, 2, 3, 4, -1, -2, 5, 99])
def test_an_illegal_action_is_an_error(action):
    simulator = Simulator(
        [jobs([4, 2], demand=[2, 2], capacity=(1, 2), release=[0, 9])], Setting(**ONLINE), window=2
    )
    assert np.flatnonzero(simulator.state.mask[0]).tolist() == [1]  # task 0 on agent 1
    with pytest.raises(IllegalAction, match=f"environment 0: action {action} is masked"):
        simulator.step(np.array([action]))


def test_a_finished_environment_takes_no_action():
    simulator = Simulator([jobs([4])], Setting())
    simulator.step(np.array([0]))
    assert not simulator.state.mask.any()
    with pytest.raises(IllegalAction, match="its episode is over"):
        simulator.step(np.array([0]))


def test_wrong_numbers_of_actions_and_environments_are_errors():
    simulator = Simulator([jobs([4])], Setting(), n_envs=2)
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
        simulator.step(np.zeros(3, dtype=int))
    for environments, instances in (([2], [0]), ([0], [1]), ([-1], [0]), ([0, 1], [0])):
        with pytest.raises(ValueError, match="each an index in range"):
            simulator.reset(environments, instances)


def test_truncation_is_told_apart_from_the_end():
    game = Game(jobs([4, 2, 3], capacity=(3,)), limit=2, **ONLINE).play((0, 0), (1, 0))
    assert game.simulator.truncated[0]
    assert not game.simulator.terminated[0]
    assert game.legal == {(2, 0), "wait"}  # what is still possible can be valued
    game = Game(jobs([4, 2], capacity=(3,)), limit=2, **ONLINE).play((0, 0), (1, 0))
    assert game.simulator.terminated[0]
    assert not game.simulator.truncated[0]


def test_settings_that_cannot_be_played_are_refused():
    with pytest.raises(SettingError, match="tardiness needs due dates"):
        Simulator([jobs([1])], Setting(objective="tardiness"))
    with pytest.raises(ValueError, match="shaped: not available"):
        Simulator([jobs([1], outages=[Outage(0, 3, 4, announced=False)])], Setting(), shaped=True)
    with pytest.raises(ValueError, match="same number of resources"):
        Simulator([jobs([1]), Instance([[1]], [[[1, 1]]], [[1, 1]], [0])], Setting())


def test_a_rollout_by_actions_returned_by_a_policy_makes_the_same_schedule():
    class First:
        def act(self, observation, rng):
            return int(np.flatnonzero(observation.mask)[0])

    result = PolicySolver(First()).solve(
        jobs([4, 2, 3]), Setting(), Budget(), np.random.default_rng(0)
    )
    assert result.schedule.start.tolist() == [0, 4, 6]
    assert result.info == {
        "decisions": 5
    }  # a wait follows each of the first two, while later tasks do not fit
    assert len(result.latency) == 5
    with pytest.raises(TypeError, match="neither solve nor act"):
        as_solver(object())
    assert played_as(First(), Setting()).observe == "all"


# -- random instances, random legal play -----------------------------------------------------------------------------


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
    """Up to 8 tasks, 3 agents of 2 types; with quotas, outages, wrong estimates, weights and due dates or without."""
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
        except InstanceError:  # some task can run nowhere: draw again
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
        events=str(rng.choice(["together", "singly"])),
    )


def judge_random_play(rng, sharing, batch):
    """Play `batch` random instances together; every schedule and return is judged. Returns the number of dead ends, kills."""
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


def test_random_legal_play_of_time_sharing_is_feasible_and_returns_the_objective():
    rng = np.random.default_rng(1)
    outcomes = [judge_random_play(rng, "time", 50) for _ in range(200)]
    assert sum(dead for dead, _ in outcomes) == 0
    assert sum(kills for _, kills in outcomes) > 100  # the hard part was met


def test_random_legal_play_of_budget_sharing_violates_only_where_it_reports_a_dead_end():
    rng = np.random.default_rng(2)
    outcomes = [judge_random_play(rng, "budget", 50) for _ in range(20)]
    assert 10 < sum(dead for dead, _ in outcomes) < 900


@pytest.mark.parametrize(
    ("sharing", "mode"), [("time", "fit"), ("time", "commit"), ("budget", "fit")]
)
def test_many_environments_equal_one_at_a_time_and_padding_changes_nothing(sharing, mode):
    rng = np.random.default_rng(3)
    instances = [random_instance(rng, sharing, 2) for _ in range(40)]
    setting = (
        Setting(track="assign") if sharing == "budget" else Setting(objective="makespan", mode=mode)
    )
    many = Simulator(instances, setting)  # 40 environments: the compiled loop with threads
    alone = [Simulator([i], setting, window=many.window) for i in instances]
    while not many.terminated.all():
        actions, rewards = np.full(len(instances), LEAVE), np.zeros(len(instances))
        for b in np.flatnonzero(~many.terminated):
            seen, same = many.observation(b), alone[b].observation(0)
            for name in vars(seen):
                assert np.array_equal(getattr(seen, name), getattr(same, name)), name
            choice = int(rng.choice(np.flatnonzero(seen.mask)))
            actions[b] = many.flat(choice, seen)
            rewards[b] = alone[b].step(np.array([alone[b].flat(choice, same)]))[0]
        playing = actions != LEAVE
        assert (many.step(actions)[playing] == rewards[playing]).all()
    for b, one in enumerate(alone):
        assert many.schedule(b).to_dict() == one.schedule(0).to_dict()


def test_the_same_seed_gives_the_same_schedules_and_another_one_others():
    instances = [random_instance(np.random.default_rng(5), "time", 1) for _ in range(3)]

    def play(seed):
        simulator = Simulator(instances, Setting(), n_envs=6)
        simulator.play_random(np.random.default_rng(seed))
        return [simulator.schedule(b).to_dict() for b in range(6)]

    assert play(7) == play(7)
    assert play(7) != play(8)


def test_play_random_restarts_episodes_until_the_decisions_are_spent():
    simulator = Simulator([jobs([4, 2, 3])], Setting(**ONLINE), n_envs=2)
    played = simulator.play_random(np.random.default_rng(0), decisions=60, restart=True)
    assert (played[:, 0] >= 10).all()  # an episode takes 3 to 5 decisions
    assert (
        played[:, 1] / played[:, 0] <= -1
    ).all()  # a return is at best minus the sum of p_j over the scale


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rewards_along_the_way_hand_checked(objective):
    """Task 0 (due 3, weight 2) runs [0, 4), task 1 (due 5, released at 1) waits and runs [4, 6)."""
    instance = jobs([4, 2], release=[0, 1], due=[3, 5], weight=[2, 1], tick_seconds=10.0)
    simulator = Simulator([instance], Setting(objective=objective, **ONLINE))
    paid = []
    for action in (
        0,
        2,
        0,
    ):  # start 0 (passes to the arrival at 1), wait (to 4), start 1 (to the end)
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


def test_the_shaped_reward_pays_the_same_total_at_assignment():
    instance = jobs([4, 2], release=[0, 1], due=[3, 5], weight=[2, 1])
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


def test_schedules_and_ticks_are_in_the_instance_s_own_numbering():
    instance = jobs([3, 4], release=[6, 0])
    simulator = Simulator([instance], Setting(**ONLINE))
    simulator.step(np.array([0]))
    assert simulator.state.task[0, END, 0] == 4  # inside, tasks are numbered by release
    simulator.step(np.array([0]))
    assert simulator.schedule(0).to_dict() == Schedule([1, 0], [0, 0], [0, 6], [4, 9]).to_dict()
