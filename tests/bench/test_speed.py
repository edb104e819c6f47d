"""The speed programs: the torch equivalent makes the same decisions pay the same, and a short run writes its record."""

import json

import numpy as np
import pytest
import torch

from bench.simulator import Simulator
from bench.simulator.tables import FREE, LAST_END, NEXT_END, RUNNING, STATUS
from bench.speed import __main__ as speed
from bench.speed import simulator as benchmark
from bench.speed._eager import Eager


@pytest.mark.parametrize("kind", ["poisson", "at once"])
def test_the_torch_equivalent_is_the_same_process(kind):
    rng = np.random.default_rng(1)
    instances = [benchmark.build(rng, kind) for _ in range(12)]
    simulator, eager = Simulator(instances, benchmark.SETTING), Eager(instances, seed=0)
    ended = 0
    for _ in range(150):
        assert np.array_equal(simulator.state.mask, eager.mask.numpy())
        assert np.array_equal(simulator.state.window, eager.window.numpy())
        for column, value in ((FREE, eager.free[..., 0]), (NEXT_END, eager.next_end), (LAST_END, eager.last_end)):
            assert np.array_equal(simulator.state.agents[..., column], value.numpy())
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in simulator.state.mask])
        rewards, same = simulator.step(actions).copy(), eager.step(torch.from_numpy(actions)).numpy()
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
    assert (eager.play_random(200) < -3).all()  # an episode has at most 64 decisions, its return is at most -1
    assert not eager.done.all()


def test_a_run_prints_a_table_and_writes_its_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "rows", lambda threads, rows=benchmark.rows: rows(threads, environments=2, rounds=1))
    monkeypatch.setattr(speed, "limit_threads", lambda threads: None)
    file = tmp_path / "speed.json"
    assert speed.main(["simulator", "--json", str(file)]) == 0
    assert "bench.speed simulator" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["schema"] == 1
    assert {"date", "command", "hardware", "load_average", "versions", "git_commit"} <= set(record)
    rows = record["figures"]["simulator"]
    assert [(row["instances"], row["engine"]) for row in rows] == [
        ("poisson", "simulator"), ("poisson", "torch eager"), ("at once", "simulator"), ("at once", "torch eager"),
        ("quotas", "simulator"),
    ]  # fmt: skip
    assert all(row["decisions_per_second"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["simulater"], "'simulater' must be one of simulator"),
        (["simulator", "--threads", "0"], "at least 1"),
        (["simulator", "--json", "/no/such/folder/x.json"], "folder /no/such/folder does not exist"),
    ],
)
def test_bad_arguments_are_one_clear_error(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
