"""The speed benchmark of exact solvers: what is measured, how it resumes, and its summary."""

import json

import numpy as np
import pytest

from bench.contracts import Budget, Solver
from bench.instance import Instance
from bench.metrics import objective
from bench.setting import Setting
from bench.speed import __main__ as command
from bench.speed import exact
from bench.verify import verify
from datasets.gangs import Gangs
from datasets.gap import draw
from solvers.cpsat import CpSat

ASSIGN = Instance(
    duration=[[2, 9], [3, 5], [4, 4]],
    demand=[[[1], [1]]] * 3,
    capacity=[[2], [2]],
    agent_type=[0, 1],
    sharing="budget",
    name="pair",
)
GANGS = list(Gangs("g", 7, [4, 4], test=4).instances("test"))


@pytest.fixture
def one_assignment(monkeypatch):
    """Measure one small assignment with CP-SAT and HiGHS."""
    monkeypatch.setattr(exact, "instances", lambda count: iter([("assign", "recipe c", ASSIGN)]))
    monkeypatch.setattr(exact, "SOLVERS", {"assign": ("cpsat", "highs")})
    monkeypatch.setattr(command, "limit_threads", lambda threads: None)


@pytest.mark.slow
def test_a_second_run_resumes_from_the_file(one_assignment, tmp_path, capsys, monkeypatch):
    file = tmp_path / "exact.json"
    argv = ["exact", "--limit", "2", "--only", "pair cpsat", "--json", str(file)]
    assert command.main(argv) == 0
    assert "bench.speed exact summary" in capsys.readouterr().out
    (row,) = json.loads(file.read_text())["figures"]["exact"]
    assert (row["status"], row["objective"], row["bound"], row["gap"]) == ("optimal", 9, 9, 0)
    assert row["threads"] == 2
    assert row["cpu_seconds"] > 0
    assert row["wall_seconds"] > 0

    monkeypatch.setattr(exact, "measure", None)  # nothing may be measured again
    assert command.main(argv) == 0
    assert json.loads(file.read_text())["figures"]["exact"] == [row]
    with pytest.raises(SystemExit):
        command.main([*argv, "--threads", "1"])
    assert "the file holds threads 2, limit 2.0; name another file" in capsys.readouterr().err


def test_a_missing_solver_is_a_row_and_is_tried_again(one_assignment, monkeypatch):
    monkeypatch.setattr(exact.importlib.util, "find_spec", lambda package: None)
    (row,) = exact.rows(2, only="highs")
    assert (row["status"], row["cpu_seconds"]) == ("not installed", None)
    assert list(exact.rows(2, only="highs", done=[row])) == [row]
    assert exact.reason_missing("nobody") == "no conf/solver/nobody.yaml"
    lines = exact.summary([row])
    assert (lines[1]["instances"], lines[1]["note"]) == (0, "not installed")


def test_a_slow_solve_is_killed_and_a_failed_one_states_the_reason(monkeypatch):
    monkeypatch.setattr(exact, "STARTING", 0)
    assert exact.measure(ASSIGN, "cpsat", 1, 0.01)["status"] == "killed"
    monkeypatch.setattr(exact, "STARTING", 60)
    assert exact.measure(ASSIGN, "fifo", 1, 1.0)["status"].startswith("failed: AttributeError")


def test_summary_equals_hand_calculation():
    def row(instance, solver, status, seconds, gap):
        return {
            "track": "assign",
            "group": "recipe c",
            "instance": instance,
            "solver": solver,
            "limit": 10.0,
            "status": status,
            "cpu_seconds": seconds,
            "gap": gap,
        }

    rows = [
        row("i", "lagrangian", "optimal", 1.0, 0.0),
        row("i", "scip", "optimal", 4.0, 0.0),
        row("j", "lagrangian", "optimal", 2.0, 0.0),
        row("j", "scip", "killed", None, None),  # counts with 1.5 times the limit
        row("k", "lagrangian", "feasible", 10.0, 0.009),
        row("k", "scip", "feasible", 10.0, 0.004),
    ]
    lines = {(line["group"], line["solver"]): line for line in exact.summary(rows)}
    assert {group for group, _ in lines} == {"recipe c", "assign"}
    ours = lines["recipe c", "lagrangian"]
    assert (ours["instances"], ours["proved"], ours["wins"]) == (3, 2, 2)
    assert (ours["cpu_ratio"], ours["gap_ratio"]) == (1, 1)
    scip = lines["recipe c", "scip"]
    assert (scip["instances"], scip["proved"], scip["wins"]) == (3, 1, 1)
    assert scip["cpu_ratio"] == pytest.approx((4.0 * 15 / 2) ** 0.5)
    assert (scip["gap"], scip["gap_ratio"]) == (pytest.approx(0.004), pytest.approx(0.5))
    assert lines["recipe c", "highs"]["cpu_ratio"] is None


@pytest.mark.slow
def test_instances_are_those_of_the_docstring():
    found = list(exact.instances(count=2))
    assert [track for track, _, _ in found] == ["assign"] * 18 + ["schedule"] * 6
    sizes = [(instance.n_tasks, instance.n_agents) for _, _, instance in found]
    assert sizes[:3] == [(100, 5), (100, 10), (100, 20)]
    assert sizes[-6:] == [(20, 3)] * 2 + [(30, 4)] * 2 + [(50, 5)] * 2
    assert (found[0][1], found[0][2].name) == ("recipe c", "c_100x5-test-0")
    assert found[-1][1] == "gangs_50x5 load0.25"


@pytest.mark.parametrize(
    ("track", "name"), [(track, name) for track, names in exact.SOLVERS.items() for name in names]
)
def test_every_solver_can_be_created_and_solves_its_track(track, name):
    solver = exact.create_solver(name)
    assert isinstance(solver, Solver)
    assert track in solver.tracks


@pytest.mark.parametrize("instance", [ASSIGN, GANGS[0]], ids=["assign", "schedule"])
def test_the_small_instance_has_the_kind_of_the_measured_one(instance):
    small = exact.small_instance(instance)
    assert (small.sharing, small.n_resources) == (instance.sharing, instance.n_resources)
    track = "assign" if instance is ASSIGN else "schedule"
    rng = np.random.default_rng(0)
    result = CpSat().solve(small, Setting(track=track), Budget(seconds=3600, threads=1), rng)
    assert (result.status, objective(small, result.schedule, "total_time")) == ("optimal", 2)


@pytest.mark.peers
@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize(
    ("track", "peer"), [("assign", "highs"), ("assign", "scip"), ("schedule", "pyjobshop")]
)
def test_models_of_the_peers_have_the_optimum_of_ours(track, peer, i):
    package, _ = exact.PEERS[peer]
    pytest.importorskip(package)
    instance = GANGS[i]
    if track == "assign":
        instance = draw("cdec"[i], 3, 10, np.random.default_rng(i), "min")
    optima = []
    for solver in (CpSat(), exact.create_solver(peer)):
        result = solver.solve(
            instance,
            Setting(track=track),
            Budget(seconds=3600, threads=1),
            np.random.default_rng(0),
        )
        assert verify(instance, result.schedule) == []
        optima.append(objective(instance, result.schedule, "total_time"))
        assert result.lower_bound == pytest.approx(optima[-1], abs=1e-4)
    assert optima[0] == optima[1]
