"""The speed programs: what is compared solves the same problem, and a short run writes its record."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.contracts import Budget
from bench.instance import Instance
from bench.metrics import objective
from bench.plugins import CONF
from bench.setting import Setting
from bench.simulator import Simulator
from bench.simulator.tables import FREE, LAST_END, NEXT_END, RUNNING, STATUS
from bench.speed import __main__ as speed
from bench.speed import exact
from bench.speed import simulator as benchmark
from bench.speed._eager import Eager
from bench.verify import verify
from datasets.gangs import Gangs
from datasets.gap import draw
from solvers.cpsat import CpSat


@pytest.mark.parametrize("kind", ["poisson", "at once"])
def test_the_torch_equivalent_is_the_same_process(kind):
    rng = np.random.default_rng(1)
    instances = [benchmark.build(rng, kind) for _ in range(12)]
    simulator, eager = Simulator(instances, benchmark.SETTING), Eager(instances, seed=0)
    ended = 0
    for _ in range(150):
        assert np.array_equal(simulator.state.mask, eager.mask.numpy())
        assert np.array_equal(simulator.state.window, eager.window.numpy())
        for column, value in (
            (FREE, eager.free[..., 0]),
            (NEXT_END, eager.next_end),
            (LAST_END, eager.last_end),
        ):
            assert np.array_equal(simulator.state.agents[..., column], value.numpy())
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in simulator.state.mask])
        rewards, same = (
            simulator.step(actions).copy(),
            eager.step(torch.from_numpy(actions)).numpy(),
        )
        np.testing.assert_allclose(rewards, same, rtol=1e-12)
        over = np.flatnonzero(simulator.state.env[:, STATUS] != RUNNING)
        assert np.array_equal(over, np.flatnonzero(eager.done.numpy()))
        if len(over):
            simulator.reset(over, over)
            eager.restart(eager.done)
        ended += len(over)
    assert ended > 12


def test_random_play_of_the_torch_equivalent_restarts_by_itself():
    eager = Eager([benchmark.build(np.random.default_rng(2), "poisson")] * 2, seed=0)
    assert (
        eager.play_random(200) < -3
    ).all()  # an episode has at most 64 decisions, its return is at most -1
    assert not eager.done.all()


def test_a_run_prints_a_table_and_writes_its_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        benchmark,
        "rows",
        lambda threads, rows=benchmark.rows: rows(threads, environments=2, rounds=1),
    )
    monkeypatch.setattr(benchmark, "GPU_ENVIRONMENTS", 2)
    monkeypatch.setattr(speed, "limit_threads", lambda threads: None)
    file = tmp_path / "speed.json"
    assert speed.main(["simulator", "--json", str(file)]) == 0
    assert "bench.speed simulator" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["schema"] == 1
    assert {"date", "command", "hardware", "load_average", "versions", "git_commit"} <= set(record)
    rows = record["figures"]["simulator"]
    gpu = "simulator on the GPU"
    assert [(row["instances"], row["engine"]) for row in rows] == [
        ("poisson", "simulator"), ("poisson", "torch eager"), ("poisson", gpu), ("at once", "simulator"),
        ("at once", "torch eager"), ("at once", gpu), ("quotas", "simulator"), ("quotas", gpu),
    ]  # fmt: skip
    assert all(row["decisions_per_second"] > 0 for row in rows if row["engine"] != gpu)


def test_without_a_gpu_nothing_is_said_of_its_speed(monkeypatch):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    row = benchmark.on_gpu("poisson", [], rounds=1, mine=1e6)
    assert row["note"] == "not measured: no CUDA device"
    assert row["decisions_per_second"] is row["per_cpu_second"] is row["ratio"] is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["simulater"], "'simulater' must be one of "),
        (["exact", "--limt", "1"], "exact: error: unrecognized arguments: --limt 1"),
        (["simulator", "--threads", "0"], "at least 1"),
        (
            ["simulator", "--json", "/no/such/folder/x.json"],
            "folder /no/such/folder does not exist",
        ),
    ],
)
def test_bad_arguments_are_one_clear_error(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_benchmark_has_its_own_options(capsys):
    def rows(threads, seconds=1.5, only="", count=3, done=()): ...

    own = speed.own_options("exact", rows, ["--seconds", "2", "--only", "x"])
    assert own == {"seconds": 2.0, "only": "x", "count": 3}
    with pytest.raises(SystemExit):
        speed.own_options("exact", rows, ["--done", "1"])
    assert (
        "python -m bench.speed exact: error: unrecognized arguments: --done 1"
        in capsys.readouterr().err
    )


# -- exact solvers side by side ----------------------------------------------------------------------------------

ASSIGN = Instance(
    duration=[[2, 9], [3, 5], [4, 4]], demand=[[[1], [1]]] * 3, capacity=[[2], [2]], agent_type=[0, 1], sharing="budget",
    name="pair",
)  # fmt: skip
GANGS = list(Gangs("g", 7, [4, 4], test=4).instances("test"))


@pytest.fixture
def quick(monkeypatch):
    """One small assignment, one solver of ours."""
    monkeypatch.setattr(exact, "instances", lambda count: iter([("assign", "recipe c", ASSIGN)]))
    monkeypatch.setattr(exact, "SOLVERS", {"assign": ("cpsat", "highs")})
    monkeypatch.setattr(speed, "limit_threads", lambda threads: None)


def test_exact_measures_in_a_process_of_its_own_and_goes_on_where_it_was(
    quick, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "exact.json"
    argv = ["exact", "--limit", "2", "--only", "pair cpsat", "--json", str(file)]
    assert speed.main(argv) == 0
    assert "bench.speed exact summary" in capsys.readouterr().out
    (row,) = json.loads(file.read_text())["figures"]["exact"]
    assert [row[name] for name in ("status", "objective", "bound", "gap", "threads")] == [
        "optimal",
        9,
        9,
        0,
        2,
    ]
    assert 0 < row["cpu_seconds"] < 3
    assert row["wall_seconds"] > 0

    monkeypatch.setattr(exact, "measure", None)  # nothing is measured again
    assert speed.main(argv) == 0
    assert json.loads(file.read_text())["figures"]["exact"] == [row]
    with pytest.raises(SystemExit):
        speed.main([*argv, "--threads", "1"])
    assert "the file holds threads 2, limit 2.0; name another file" in capsys.readouterr().err


def test_what_is_not_there_is_a_row_and_is_tried_again(quick, monkeypatch):
    monkeypatch.setattr(exact.importlib.util, "find_spec", lambda package: None)
    (row,) = exact.rows(2, only="highs")
    assert (row["status"], row["cpu_seconds"]) == ("not installed", None)
    assert list(exact.rows(2, only="highs", done=[row])) == [row]
    assert exact.absent("nobody") == "no conf/solver/nobody.yaml"
    assert [(line["instances"], line["note"]) for line in exact.summary([row])][1] == (
        0,
        "not installed",
    )


def test_what_takes_too_long_is_killed_and_what_fails_says_why(monkeypatch):
    monkeypatch.setattr(exact, "STARTING", 0)
    assert exact.measure(ASSIGN, "cpsat", 1, 0.01)["status"] == "killed"
    monkeypatch.setattr(exact, "STARTING", 60)
    assert exact.measure(ASSIGN, "fifo", 1, 1.0)["status"].startswith("failed: AttributeError")


def test_the_summary_by_hand():
    def row(instance, solver, status, seconds, gap):
        return {"track": "assign", "group": "recipe c", "instance": instance, "solver": solver, "limit": 10.0, "status": status,
                "cpu_seconds": seconds, "gap": gap}  # fmt: skip

    found = [
        row("i", "lagrangian", "optimal", 1.0, 0.0),
        row("i", "scip", "optimal", 4.0, 0.0),
        row("j", "lagrangian", "optimal", 2.0, 0.0),
        row("j", "scip", "killed", None, None),  # counts with 1.5 times the limit
        row("k", "lagrangian", "feasible", 10.0, 0.009),
        row("k", "scip", "feasible", 10.0, 0.004),
    ]
    lines = {(line["group"], line["solver"]): line for line in exact.summary(found)}
    assert {group for group, _ in lines} == {"recipe c", "assign"}
    ours, scip = lines["recipe c", "lagrangian"], lines["recipe c", "scip"]
    assert [ours[name] for name in ("instances", "proved", "wins", "cpu_ratio", "gap_ratio")] == [
        3,
        2,
        2,
        1,
        1,
    ]
    assert [scip[name] for name in ("instances", "proved", "wins")] == [3, 1, 1]
    assert scip["cpu_ratio"] == pytest.approx((4.0 * 15 / 2) ** 0.5)
    assert (scip["gap"], scip["gap_ratio"]) == (pytest.approx(0.004), pytest.approx(0.5))
    assert lines["recipe c", "highs"]["cpu_ratio"] is None


def test_all_instances_are_there():
    found = list(exact.instances(count=2))
    assert [track for track, _, _ in found] == ["assign"] * 18 + ["schedule"] * 6
    assert [(i.n_tasks, i.n_agents) for _, _, i in found[-6:]] == [(20, 3)] * 2 + [(30, 4)] * 2 + [
        (50, 5)
    ] * 2
    assert (found[0][1], found[0][2].name) == ("recipe c", "c_100x5-test-0")
    assert found[-1][1] == "gangs_50x5 load0.25"


@pytest.mark.parametrize("solver", ["cpsat", "cpsat_plain"])
def test_configurations_are_read_as_hydra_reads_them(solver):
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("config", [f"+solver={solver}", "dataset=gangs_20x3"])
    assert exact.read("solver", solver) == OmegaConf.to_container(composed.solver)
    assert exact.read("dataset", "gangs_20x3") == OmegaConf.to_container(composed.dataset)


@pytest.mark.peers
@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize(
    ("track", "peer"), [("assign", "highs"), ("assign", "scip"), ("schedule", "pyjobshop")]
)
def test_the_peers_models_have_the_optimum_of_ours(track, peer, i):
    package, solver = exact.PEERS[peer]
    pytest.importorskip(package)
    instance = (
        draw("cdec"[i], 3, 10, np.random.default_rng(i), "min") if track == "assign" else GANGS[i]
    )
    optimal = []
    for plugin in (CpSat(), solver()):
        result = plugin.solve(
            instance, Setting(track=track), Budget(seconds=20, threads=1), np.random.default_rng(0)
        )
        assert verify(instance, result.schedule) == []
        optimal.append(objective(instance, result.schedule, "total_time"))
        assert result.lower_bound == pytest.approx(optimal[-1], abs=1e-4)
    assert optimal[0] == optimal[1]
