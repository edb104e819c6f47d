"""Names that become parts of paths, and folders and files that a user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.paths import (
    input_file,
    output_file,
    output_folder,
    own_folder,
    path_component,
)
from bench.references import References
from bench.run.job import Job
from bench.run.run_folder import RunFolder
from bench.setting import Setting
from datasets.logs.recorded import RecordedLogs
from datasets.seed_example import SeedExample
from solvers.rules import SJF

LEAVES_ITS_FOLDER = (
    *("", ".", "..", "../x", "../../x", "a/b", "/etc", "a\\b", "~", "~/x", "-x", ".hidden"),
    *("a\nb", "a\0b", "\x1b[31m", "a b", " ", "a%2Fb", "a?b", "a#b", "\ud800", "a:b", "x" * 101),
    *(None, 5, ["a"]),
)


@pytest.mark.parametrize("name", ["tiny", "gap_c", "cluster-small-v0", "a.b+c=1,2@x", "Größe", "0"])
def test_a_plain_name_is_returned_unchanged(name: str) -> None:
    assert path_component("dataset.name", name) == name


@pytest.mark.parametrize("name", LEAVES_ITS_FOLDER)
def test_a_name_that_could_leave_its_folder_is_an_error_that_names_the_field(name: str) -> None:
    with pytest.raises(UserError, match=r"^dataset\.name: ") as found:
        path_component("dataset.name", name)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 300


def test_every_name_that_becomes_a_folder_or_file_is_checked(tmp_path: Path) -> None:
    data = SeedExample(name="../../x", train=0, validation=0)
    instances = list(data.instances("test"))
    with pytest.raises(UserError, match=r"^dataset\.name: value '../../x'"):
        Job("sjf", SJF(), data, instances, Setting())
    plain = SeedExample(name="x", train=0, validation=0)
    with pytest.raises(UserError, match=r"^solver: value '../sjf'"):
        Job("../sjf", SJF(), plain, instances, Setting())
    with pytest.raises(UserError, match=r"^dataset\.name: value '../evil'"):
        References(tmp_path).store("../evil", instances, "total_time", "", tmp_path / "shipped")
    for name in ("../x-v0", "x" * 101 + "-v0", "a/b-v0", "x-v\u0661"):
        with pytest.raises(UserError, match=r"^logs\.name: value "):
            RecordedLogs(name, plain, {})
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_may_be_made_where_no_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert output_folder("runs", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    for path in ("file", "file/below"):
        with pytest.raises(UserError, match=rf"^runs: value .*: {tmp_path}/file is no folder"):
            output_folder("runs", tmp_path / path)
    for path in ("", " ", "a\0b", "x" * 5000):
        with pytest.raises(UserError, match=r"^runs: value .*is no path"):
            output_folder("runs", path)


def test_files_to_read_and_to_write_are_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert input_file("x", file) == output_file("x", file) == file
    assert output_file("x", tmp_path / "new") == tmp_path / "new"
    for check in (input_file, output_file):
        with pytest.raises(UserError, match=r"^x: value .*: is a folder; name a file"):
            check("x", tmp_path)
    with pytest.raises(UserError, match=r"^x: .* does not exist"):
        input_file("x", tmp_path / "new")
    with pytest.raises(UserError, match=r"^x: value .*: .*file is no folder"):
        output_file("x", file / "below")


# -- a run's folder --------------------------------------------------------------------------------


def test_rerun_deletes_only_what_a_run_writes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "tiny" / "run")
    for name in (
        "result.json",
        "training.pt",
        ".config.yaml.1-2.partial",
        "mlflow_run.json",
        "run.lock",
    ):
        (folder.path / name).write_text("{}")
    for part in ("offline", "mine"):
        (folder.path / part).mkdir()
        (folder.path / part / "policy.pt").write_text("")
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "offline" / "notes.txt").write_text("mine")
    folder.clear()
    left = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    expected = {"notes.txt", "offline/notes.txt", "mine/policy.pt", "mlflow_run.json", "run.lock"}
    assert left == expected


@pytest.mark.parametrize("link", ["tiny", "tiny/run", "tiny/run/result.json", "tiny/run/offline"])
def test_nothing_behind_a_symbolic_link_is_written_or_deleted(tmp_path: Path, link: str) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "run").mkdir(parents=True)
    for path in (foreign / "result.json", foreign / "policy.pt", foreign / "run" / "result.json"):
        path.write_text("mine")
    before = sorted(foreign.rglob("*"))
    own = tmp_path / "runs" / link
    own.parent.mkdir(parents=True)
    own.symlink_to(foreign if own.suffix != ".json" else foreign / "result.json")
    with pytest.raises(UserError, match=rf"^runs: {own} is a symbolic link") as found:
        RunFolder(tmp_path / "runs" / "tiny" / "run")
    assert "\n" not in str(found.value)
    assert sorted(foreign.rglob("*")) == before
    assert (foreign / "result.json").read_text() == "mine"


def test_the_folder_of_all_runs_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    RunFolder(tmp_path / "runs" / "tiny" / "run")
    assert (tmp_path / "disk" / "tiny" / "run").is_dir()


def test_the_folder_of_a_sweep_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "key").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"^runs: .*sweeps/key is a symbolic link"):
        own_folder("runs", tmp_path / "sweeps" / "key")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^runs: .* cannot be made \(Not a directory\)"):
        own_folder("runs", tmp_path / "file" / "a" / "b")
