"""A scheduler's own log: good rows become decisions, the others are rejected with a reason."""

import numpy as np
import pandas
import pytest

from bench.errors import UserError
from datasets.logs import minari_files
from datasets.logs.imported import ImportedLogs

pytestmark = pytest.mark.usefixtures("_cache")
AGENTS = [{"name": "a", "gpu": 4, "cpu": 16}, {"name": "b", "gpu": 2, "cpu": 16, "speed": 0.5}]
GOOD = """submit,start,end,agent,gpu,cpu
0,0,600,a,2,4
60,60,1200,b,1,4
120,700,900,a,4,8
200,1300,1500,b,1,2
400,1600,2500,b,2,2
"""
BAD = """130,x,900,a,4,8
140,100,900,a,4,8
150,900,900,a,4,8
300,1300,1500,c,1,2
400,1300,1500,b,9,2
"""


@pytest.fixture
def _cache(tmp_path, monkeypatch):
    """Keep logs in a folder of this test."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def imported(path, text=GOOD, **settings):
    path.write_text(text)
    return ImportedLogs("mine-v0", str(path), **{"agents": AGENTS, "jobs": 3, **settings})


def test_rows_become_decisions(tmp_path):
    logs = imported(tmp_path / "log.csv")
    log = logs.episodes()
    assert log.behaviour == ("imported",) * 2
    assert log.probability is None
    assert logs.rejected == []
    first, second = logs.instances()
    assert first.n_tasks == 3
    assert second.n_tasks == 2
    assert first.release.tolist() == [0, 1, 2]
    assert first.duration.tolist() == [
        [10, 20],
        [10, 19],
        [4, -1],
    ]  # ticks on a and b; b is half as fast, and too small for the last job
    assert first.resources == ("cpu", "gpu")
    assert log.instance == (first.hash(), second.hash())
    pairs = [
        (int(a) // 2, int(a) % 2)
        for a in log.action[: log.length[0]]
        if a != log.layout.actions - 1
    ]
    assert [agent for _, agent in pairs] == [0, 1, 0]
    assert minari_files.read(tmp_path / "cache" / "logs" / "mine-v0").hash == log.hash


def test_parquet_files_other_column_names_and_dates_are_read(tmp_path):
    table = pandas.read_csv(pandas.io.common.StringIO(GOOD))
    for name in ("submit", "start", "end"):
        table[name] = (
            pandas.Timestamp("2024-03-01", tz="utc") + pandas.to_timedelta(table[name], unit="s")
        ).astype(str)
    table.rename(columns={"submit": "queued", "gpu": "gpus"}).to_parquet(tmp_path / "log.parquet")
    columns = {"submit": "queued", "gpu": "gpus"}
    other = ImportedLogs("mine-v0", str(tmp_path / "log.parquet"), AGENTS, columns, jobs=3)
    expected = imported(tmp_path / "log.csv").episodes().hash
    assert other.episodes().hash == expected
    for name in ("submit", "start", "end"):
        table[name] = pandas.to_datetime(table[name])
    table.to_parquet(tmp_path / "native.parquet")
    assert (
        ImportedLogs("mine-v0", str(tmp_path / "native.parquet"), AGENTS, jobs=3).episodes().hash
        == expected
    )


def test_rejected_rows_are_reported(tmp_path):
    logs = imported(tmp_path / "log.csv", GOOD + BAD)
    notes = []
    log = logs.episodes(lambda label, done, total, note: notes.append(note))
    assert log.hash == imported(tmp_path / "good.csv").episodes().hash
    assert [row for row, _ in logs.rejected] == [5, 6, 7, 8, 9]
    assert [reason.split()[0] for _, reason in logs.rejected] == [
        "start",
        "started",
        "ended",
        "agent",
        "a",
    ]
    assert notes[0].startswith(
        "5 rows rejected: row 5: start is missing or no number and no ISO date; row 6"
    )


def test_a_row_that_its_agent_has_no_room_for_is_rejected(tmp_path):
    """At 500 agent a uses 4 of its 4 GPUs until 600; an overlap of one tick is allowed."""
    full = GOOD.replace("0,0,600,a,2,4", "0,0,600,a,4,4") + "210,500,800,a,1,1\n220,590,650,a,4,1\n"
    logs = imported(tmp_path / "log.csv", full)
    logs.episodes()
    assert logs.rejected == [
        (5, "its agent has no room for its integer units beside the rows running there")
    ]


def test_integer_agent_names_stay_names_where_some_are_missing(tmp_path):
    text = GOOD.replace(",a,", ",1,").replace(",b,", ",2,") + "500,600,700,,1,1\n"
    logs = imported(
        tmp_path / "log.csv", text, agents=[{**AGENTS[0], "name": 1}, {**AGENTS[1], "name": "2"}]
    )
    assert len(logs.episodes().length) == 2
    assert logs.rejected == [(5, "agent is none of 1, 2")]


def test_demands_are_rounded_up_to_integer_units(tmp_path):
    """Half a GPU counts as one, so the third job at the same time has no room."""
    halves = "submit,start,end,agent,gpu,cpu\n" + "".join(
        f"{t},{t},{t + 600},b,0.5,2\n" for t in range(4)
    )
    logs = imported(tmp_path / "log.csv", halves + "5,5,600,b,-0.5,2\n", reject=0.2)
    log = logs.episodes()
    assert log.length.sum() == 2
    assert [row for row, _ in logs.rejected] == [2, 3, 4]
    assert (
        logs.rejected[0][1]
        == "its agent has no room for its integer units beside the rows running there"
    )
    assert logs.rejected[2][1] == "a demand is negative or more than its agent has"
    (instance,) = logs.instances()
    assert (instance.demand[:, 1, instance.resources.index("gpu")] == 1).all()


def test_a_name_that_minari_does_not_accept_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"logs.name: value 'mine': must be letters.*mine-v0"):
        ImportedLogs("mine", str(tmp_path / "log.csv"), AGENTS)


def test_a_late_start_is_replayed_at_the_earliest_time(tmp_path):
    late = GOOD.replace("700,900", "1700,1900")  # the agent was free at 600
    assert np.array_equal(
        imported(tmp_path / "a.csv", late).episodes().action,
        imported(tmp_path / "b.csv").episodes().action,
    )


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (
            GOOD.replace("agent", "node"),
            {},
            "has no column 'agent'; it has submit, start, end, node",
        ),
        (GOOD[:40] + BAD, {}, "rows are rejected"),
        (GOOD, {"agents": [{"name": "a"}]}, "agents with capacities"),
        (GOOD, {"jobs": 0}, "logs.jobs: jobs of at least 1"),
        (GOOD, {"jobs": 2.5}, "logs.jobs: jobs of at least 1 are needed for an episode, got 2.5"),
        (GOOD, {"tick_seconds": 0}, "logs.tick_seconds: a number above 0 is needed, got 0"),
        (GOOD, {"tick_seconds": 1e-9}, "ticks; raise logs.tick_seconds"),
        (GOOD, {"reject": 2.0}, "logs.reject: a share from 0 to 1 is needed, got 2.0"),
        (
            GOOD,
            {"columns": {"submit": "start"}},
            "logs.columns.submit: 'start' is taken for two of submit, start, end, agent",
        ),
        (GOOD, {"agents": [{"gpu": 4}]}, r"agents\[0\]: needs a name of its own"),
        (GOOD, {"agents": [*AGENTS, AGENTS[0]]}, r"agents\[2\]: needs a name of its own"),
        (
            GOOD,
            {"agents": [{"name": "a", "gpu": 4, "speed": 0}]},
            r"agents\[0\].speed: must be above 0",
        ),
        (
            GOOD,
            {"agents": [{"name": "a", "gpu": 2.5}]},
            r"agents\[0\].gpu: an integer number of units is needed, got 2.5",
        ),
        (GOOD, {"agents": [{"name": "a", "gpu": "two"}]}, r"agents\[0\].gpu: an integer number"),
        (GOOD, {"columns": {"submt": "queued"}}, "logs.columns: 'submt' is none of submit, start"),
        ("", {}, "cannot be read"),
        (GOOD[:30], {}, "log.csv has no rows"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, text, settings, message):
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "log.csv", text, **settings).episodes()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"does not exist"):
        ImportedLogs("mine-v0", str(tmp_path / "no.csv"), AGENTS).episodes()
    with pytest.raises(UserError, match=r"logs.path: give the file"):
        ImportedLogs("mine-v0", None, AGENTS).episodes()
