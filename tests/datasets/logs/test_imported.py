"""A scheduler's own log: good rows become decisions, the others are rejected with a reason."""

import decimal

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


def ticks(path, **settings):
    """Return release and duration of the only episode of a file."""
    logs = ImportedLogs("mine-v0", str(path), **{"agents": [{"name": "a", "gpu": 4}], **settings})
    (instance,) = logs.instances()
    return instance.release.tolist(), instance.duration.ravel().tolist()


def test_a_job_takes_on_its_own_agent_what_it_took(tmp_path):
    """For whole minutes, and for speeds by which seconds cannot be divided exactly."""
    minutes = range(1, 300)
    ends = np.cumsum(minutes) * 60
    rows = [
        f"{end - 60 * m},{end - 60 * m},{end},a,1" for m, end in zip(minutes, ends, strict=True)
    ]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["submit,start,end,agent,gpu", *rows]))
    for speed in (0.7, 1.4, 0.1, 3):
        agents = [{"name": "a", "gpu": 4, "speed": speed}]
        _, durations = ticks(path, agents=agents, jobs=1000)
        assert durations == list(minutes)


@pytest.mark.parametrize("epoch", ["", "15068160", "2017-10-01T00:00:0"])
def test_parts_of_a_second_are_exact_in_numbers_and_dates(tmp_path, epoch):
    rows = ["0.1,0.1,0.4,a,1", "1.2,1.2,1.5,a,1"]
    rows = [",".join(epoch + t for t in row.split(",")[:3]) + row[-4:] for row in rows]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["submit,start,end,agent,gpu", *rows]))
    assert ticks(path, tick_seconds=0.1) == ([0, 11], [3, 3])


def duration_columns(**kinds):
    """Return a table of two jobs of ten minutes, one minute apart."""
    seconds = {"submit": [0, 60], "start": [0, 60], "end": [600, 660]}
    return pandas.DataFrame(
        {name: kinds[name](pandas.Series(values)) for name, values in seconds.items()}
        | {"agent": ["a", "a"], "gpu": [1, 1]}
    )


def as_timedelta(unit):
    return lambda seconds: pandas.to_timedelta(seconds, unit="s").astype(f"timedelta64[{unit}]")


def as_dates(unit, zone=None):
    return lambda s: (
        (pandas.to_datetime(s, unit="s", utc=True))
        .dt.tz_convert(zone)
        .astype(f"datetime64[{unit}{', ' + zone if zone else ''}]")
    )


@pytest.mark.parametrize(
    "kind",
    [
        *(as_timedelta(unit) for unit in ("s", "ms", "us", "ns")),
        *(as_dates(unit) for unit in ("s", "ms", "us", "ns")),
        as_dates("us", "Asia/Tokyo"),
        lambda s: pandas.to_timedelta(s, unit="s").astype(str),
        lambda s: pandas.to_timedelta(s, unit="s").dt.to_pytimedelta().astype(str),
        lambda s: s.map(lambda t: f"1-00:{t // 60:02d}:00"),
        lambda s: s.astype("Int64"),
        lambda s: s.astype("Float64"),
        lambda s: s.astype("float32"),
        lambda s: s.map(decimal.Decimal),
        lambda s: s.astype(str).astype("category"),
    ],
)
def test_times_of_any_type_are_seconds(tmp_path, kind):
    path = tmp_path / "log.parquet"
    duration_columns(submit=kind, start=kind, end=kind).to_parquet(path)
    assert ticks(path) == ([0, 1], [10, 10])
    (tmp_path / "other name").write_bytes(path.read_bytes())
    assert ticks(tmp_path / "other name") == ([0, 1], [10, 10])


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (as_dates("s"), "submit has numbers, start has dates without a time zone; write all times"),
        (as_timedelta("s"), "submit has numbers, start has durations"),
    ],
)
def test_columns_of_different_kinds_of_times_are_refused(tmp_path, start, message):
    duration_columns(submit=pandas.Series, start=start, end=pandas.Series).to_parquet(
        tmp_path / "log.parquet"
    )
    with pytest.raises(UserError, match=message):
        ticks(tmp_path / "log.parquet")


def test_dates_with_and_without_a_time_zone_are_not_mixed(tmp_path):
    text = "submit,start,end,agent,gpu\n2024-01-01T10:00:00,2024-01-01T10:00:00{},2024-01-01T11:00"
    path = tmp_path / "log.csv"
    path.write_text(text.format("+09:00") + ":00,a,1\n")
    with pytest.raises(UserError, match="without a time zone, start has dates with a time"):
        ticks(path)
    path.write_text(text.format("") + ":00,a,1\n")
    assert ticks(path) == ([0], [60])


def test_times_and_demands_that_are_no_numbers_are_rejected_with_a_reason(tmp_path):
    table = duration_columns(submit=pandas.Series, start=pandas.Series, end=pandas.Series)
    table = pandas.concat([table, table.tail(1)], ignore_index=True)
    table["gpu"] = pandas.to_timedelta([1, 1, 1], unit="s")
    table.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(UserError, match=r"3 of 3 rows are rejected \(row 0: gpu is missing"):
        ticks(tmp_path / "log.parquet")
    table["gpu"] = 1
    table["end"] = pandas.array([600, None, 720], dtype="Int64")
    table.to_parquet(tmp_path / "log.parquet")
    assert ticks(tmp_path / "log.parquet") == ([0, 1], [10, 11])


def test_names_of_agents_are_never_numbers(tmp_path):
    names = ["007", "7", "1e5", "NA", "nan", "null", "6214e9", "1.0", "True"]
    rows = [f"{60 * i},{60 * i},{60 * i + 60 * (i + 1)},{name},1" for i, name in enumerate(names)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["submit,start,end,agent,gpu", *rows, "600,600,660,,1"]))
    agents = [{"name": name, "gpu": 1} for name in names]
    logs = ImportedLogs("mine-v0", str(path), agents)
    ((_, schedule),) = logs._pairs
    assert schedule.agent.tolist() == list(range(len(names)))
    assert [row for row, _ in logs.rejected] == [len(names)]
    pandas.read_csv(path, dtype=str, keep_default_na=False).to_parquet(tmp_path / "log.parquet")
    logs = ImportedLogs("mine-v0", str(tmp_path / "log.parquet"), agents)
    assert logs._pairs[0][1].agent.tolist() == list(range(len(names)))
    with pytest.raises(UserError, match=r"agents\[0\].name: value 6214000000000.0: is no text"):
        ImportedLogs("mine-v0", str(path), [{"name": 6214e9, "gpu": 1}])


def test_the_reader_ends_with_one_line(tmp_path, caplog):
    imported(tmp_path / "log.csv", GOOD + BAD + "1,2,3\n", reject=0.1).instances()
    [line] = caplog.messages
    assert line == (
        f"{tmp_path / 'log.csv'}: 11 rows read, 5 used, 6 left out: "
        "1 (start is missing or no number and no ISO date), 1 (started before it was submitted), "
        "1 (ended before it began), 1 (agent is none of a, b), "
        "1 (a demand is negative or more than its agent has), 1 (has 3 fields, the header has 6)"
    )


def test_one_absurd_time_rejects_its_own_row_only(tmp_path):
    logs = imported(tmp_path / "log.csv", GOOD + "-1e300,0,600,a,1,1\n")
    assert [one.hash() for one in logs.instances()] == [
        one.hash() for one in imported(tmp_path / "good.csv").instances()
    ]
    assert logs.rejected == [(5, "a time is more than 1,000,000,000,000 s")]


def test_byte_order_marks_and_blank_lines_are_read(tmp_path):
    expected = imported(tmp_path / "log.csv").instances()
    for content in (GOOD.encode("utf-8-sig"), GOOD.replace("\n", "\r\n\r\n").encode()):
        (tmp_path / "log.csv").write_bytes(content)
        logs = ImportedLogs("mine-v0", str(tmp_path / "log.csv"), AGENTS, jobs=3)
        assert [one.hash() for one in logs.instances()] == [one.hash() for one in expected]
        assert logs.rejected == []


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
