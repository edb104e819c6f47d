"""What identifies a run: the content of each input that can change its result."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench import plugins
from bench.contracts import Budget, Dataset, Learner, Policy, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.protection import TrainingData
from bench.run.inputs import folder_hash, named_content
from bench.run.job import Job
from bench.setting import Setting
from bench.settings_hash import foreign_sources, plugin_settings, settings_hash
from datasets.file import Files
from solvers.best_rule import BestRule
from solvers.rules import FIFO


class First(Policy):
    """Takes the first legal action."""

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        return int(np.argmax(observation.mask))


class Learns(Learner):
    """Learns nothing."""

    def fit(self, *arguments: Any) -> Policy:
        return First()


class StartsFromBest(First):
    """Holds a solver that uses the dispatch rules."""

    def __init__(self) -> None:
        self.start = BestRule()


class Writes:
    """A part of a solver that writes a file that its configuration names."""

    output_files: ClassVar = ("kept",)


def instance(duration: int) -> Instance:
    return Instance([[duration]], [[[1]]], [[1]], [0])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of instances with the three splits."""
    for i, split in enumerate(("train", "validation", "test")):
        (tmp_path / "data" / split).mkdir(parents=True)
        for j in range(2):
            instance(1 + 2 * i + j).write(tmp_path / "data" / split / f"{j}.json")
    return tmp_path / "data"


def key(
    plugin: Any, path: Path | None = None, dataset: Dataset | None = None, **solver: Any
) -> str:
    """Return the key of a job of today's content of the folder `path`."""
    dataset = dataset or Files(path=str(path))
    config = {"solver": solver, "dataset": {"_target_": "datasets.file.Files"}}
    instances = tuple(dataset.instances("test"))
    return Job("mine", plugin, dataset, instances, Setting(), config=config).key


# -- training data -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_learner_runs_anew_where_an_instance_of_any_split_changed(split: str, data: Path) -> None:
    before = key(Learns(), data)
    assert key(Learns(), data) == before
    instance(50).write(data / split / "1.json")
    assert key(Learns(), data) != before


def test_a_rule_runs_anew_only_where_its_own_instances_changed(data: Path) -> None:
    before = key(First(), data)
    instance(50).write(data / "train" / "1.json")
    assert key(First(), data) == before
    instance(50).write(data / "test" / "1.json")
    assert key(First(), data) != before


def test_a_split_that_appears_or_cannot_be_read_changes_the_key(data: Path) -> None:
    before = key(Learns(), data)
    (data / "train" / "0.json").write_text("{")
    damaged = key(Learns(), data)
    (data / "train" / "0.json").unlink()
    assert len({before, damaged, key(Learns(), data)}) == 3


def test_the_same_instances_in_other_files_are_the_same_training_data(data: Path) -> None:
    before = key(Learns(), data)
    (data / "train" / "0.json").write_text((data / "train" / "0.json").read_text() + "\n")
    (data / "train" / "1.json").rename(data / "train" / "1b.json")
    assert key(Learns(), data) == before


def test_a_pinned_split_is_not_read_for_the_key_and_is_checked_when_it_is_read(data: Path) -> None:
    class Counts(Files):
        read: ClassVar[list[str]] = []

        def instances(self, split: str) -> Any:
            self.read.append(split)
            return super().instances(split)

    key(Learns(), dataset=Counts(path=str(data), hashes={"train": "0" * 64}))
    assert Counts.read == ["test", "validation"]
    pinned = TrainingData(Files(path=str(data), hashes={"train": "0" * 64}), "mine")
    with pytest.raises(UserError, match=r"^dataset\.hashes\.train: pinned 0000"):
        pinned.instances("train")


# -- files and folders ---------------------------------------------------------------------------


def change(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.read_text() + "x" if path.exists() else "new")


@pytest.mark.parametrize(
    ("option", "text", "file"),
    [
        ("checkpoint", "{}/policy.pt", "policy.pt"),
        ("checkpoint", "~/policy.pt", "policy.pt"),
        ("anything", "~/deep/log.csv", "deep/log.csv"),
        ("anything", "policy.pt", "policy.pt"),
        ("anything", "./logs", "logs/a/b.csv"),
        ("path", "logs", "logs/a/b.csv"),
        ("anything", "~/logs", "logs/b.csv"),
        ("anything", "{}/logs/../logs", "logs/b.csv"),
    ],
)
def test_files_and_folders_count_by_content_however_they_are_named(
    option: str, text: str, file: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    change(tmp_path / file)
    nested = {"part": [{option: text.format(tmp_path)}]}
    before = key(First(), data, **nested)
    assert key(First(), data, **nested) == before
    change(tmp_path / file)
    assert key(First(), data, **nested) != before


@pytest.mark.parametrize(
    "text", ["small", ".", "", "\0", "x" * 5000, "a/" * 300, "~nobody-of-this-name/x", "/dev/null"]
)
def test_other_strings_are_no_files(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert list(named_content({"network": text, "_target_": text, "n": 5, "none": None})) == []


def test_a_file_that_the_run_itself_writes_does_not_count(tmp_path: Path) -> None:
    change(tmp_path / "kept")
    target = f"{__name__}.Writes"
    config = {"_target_": target, "kept": str(tmp_path / "kept")}
    assert list(named_content(config)) == []
    assert len(list(named_content({**config, "_target_": "no.such.Class"}))) == 1


def test_a_folder_counts_with_its_names_and_through_links(tmp_path: Path) -> None:
    change(tmp_path / "one" / "a")
    change(tmp_path / "one" / "b" / "c")
    (tmp_path / "one" / "b" / "loop").symlink_to(tmp_path / "one")
    change(tmp_path / "outside" / "d")
    (tmp_path / "one" / "link").symlink_to(tmp_path / "outside")
    seen = [folder_hash(tmp_path / "one")]
    change(tmp_path / "outside" / "d")
    seen.append(folder_hash(tmp_path / "one"))
    (tmp_path / "one" / "a").rename(tmp_path / "one" / "a2")
    seen.append(folder_hash(tmp_path / "one"))
    assert len(set(seen)) == 3
    assert folder_hash(tmp_path / "one") == seen[-1]


# -- rules ---------------------------------------------------------------------------------------


class OtherFifo(FIFO):
    """A further rule."""


@pytest.mark.parametrize(
    ("plugin", "solver", "depends"),
    [
        (BestRule, {}, True),
        (First, {"warm_start": {"_target_": "solvers.best_rule.BestRule"}}, True),
        (First, {"policy": [{"_target_": "solvers.ppo.PPO"}]}, True),
        (StartsFromBest, {}, True),
        (First, {}, False),
    ],
)
def test_what_uses_the_rules_runs_anew_after_one_was_added_or_changed(
    plugin: Callable[[], Any],
    solver: dict[str, Any],
    depends: bool,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    importlib.import_module("solvers.ppo")
    found: list[dict[str, Policy]] = [
        {"fifo": FIFO()},
        {"fifo": FIFO(), "other": FIFO()},
        {"fifo": OtherFifo()},
    ]
    keys = []
    for rules in found:
        monkeypatch.setattr(plugins, "rules", lambda rules=rules: rules)
        keys.append(key(plugin(), data, **solver))
    assert len(set(keys)) == (3 if depends else 1)


def test_learners_whose_training_cost_names_the_best_rule_use_the_rules() -> None:
    from solvers.continual import ContinualPPO
    from solvers.portfolio import RulePortfolio
    from solvers.ppo import PPO
    from solvers.rolling import RollingHorizon

    assert (RulePortfolio.uses_rules, RollingHorizon.uses_rules) == (True, False)
    assert (PPO.uses_rules, ContinualPPO.uses_rules, BestRule.uses_rules) == (True, True, True)
    assert (Solver.uses_rules, Learner.uses_rules, Policy.uses_rules) == (False, False, False)


# -- classes -------------------------------------------------------------------------------------

SOURCE = """
from bench.contracts import Policy

class {name}(Policy):
    def act(self, observation, rng):
        return {action}
"""


def module(folder: Path, name: str, source: str) -> Any:
    """Return a new module `name` with this source, a user's own file."""
    (folder / f"{name}.py").write_text(source)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's modules."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_classes_of_the_suite_count_by_name_and_others_by_path(own: Path) -> None:
    def hashed(target: str) -> str:
        return settings_hash({"solver": {"_target_": target, "lr": 1}})

    assert hashed("solvers.ppo.PPO") == hashed("solvers.moved.ppo.PPO")
    others = ["solvers.ppo.PPO", "mine.PPO", "yours.PPO", "mine.deep.PPO", "solversx.ppo.PPO"]
    assert len({hashed(target) for target in others}) == len(others)
    # as in versions before
    assert hashed("solvers.ppo.PPO") == hashed("PPO") == "bd61dee761fba754"


def test_a_module_added_to_the_suites_packages_is_not_the_suites(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import solvers

    (own / "added").mkdir()
    (own / "added" / "added_rule.py").write_text(SOURCE.format(name="FIFO", action=0))
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(own / "added")])
    before = settings_hash({"_target_": "solvers.added_rule.FIFO"})
    assert before == settings_hash({"_target_": "solvers.rules.FIFO"})  # nothing is known of it
    added = importlib.import_module("solvers.added_rule")
    assert settings_hash({"_target_": "solvers.added_rule.FIFO"}) != before
    assert list(foreign_sources([added.FIFO])) == ["solvers.added_rule"]
    monkeypatch.delitem(sys.modules, "solvers.added_rule")


def test_a_changed_plug_in_runs_anew(own: Path, data: Path) -> None:
    name = "own_plugin_a"
    keys = []
    for action in ("0", "0", "1"):
        plugin = module(own, name, SOURCE.format(name="Mine", action=action))
        keys.append(key(plugin.Mine(), data, _target_=f"{name}.Mine"))
    assert keys[0] == keys[1] != keys[2]


def test_a_changed_part_of_a_solver_and_a_changed_base_class_count(own: Path, data: Path) -> None:
    base = SOURCE.format(name="Base", action="0")
    part = module(own, "own_part", base)
    derived = module(own, "own_derived", "from own_part import Base\nclass Mine(Base): pass\n")
    before = key(First(), data, teacher={"_target_": "own_part.Base"}), key(derived.Mine(), data)
    assert list(foreign_sources([derived.Mine])) == ["own_derived", "own_part"]
    (own / "own_part.py").write_text(base + "# changed\n")
    after = key(First(), data, teacher={"_target_": "own_part.Base"}), key(derived.Mine(), data)
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert part.Base is derived.Base


def test_plugins_of_the_same_name_are_different_in_a_recorded_log(own: Path) -> None:
    mine = module(own, "own_plugin_b", SOURCE.format(name="FIFO", action=0)).FIFO()
    assert plugin_settings(mine)[0] == "own_plugin_b.FIFO"
    assert plugin_settings(FIFO())[0] == "FIFO"
    before = settings_hash(plugin_settings(mine))
    assert before == settings_hash(plugin_settings(mine))
    changed = module(own, "own_plugin_b", SOURCE.format(name="FIFO", action=1)).FIFO()
    assert settings_hash(plugin_settings(changed)) != before


def test_a_run_without_such_inputs_has_none(data: Path) -> None:
    dataset = Files(path=str(data))
    instances = tuple(dataset.instances("test"))
    job = Job("fifo", FIFO(), dataset, instances, Setting(), Budget(), config={"solver": {}})
    assert job.inputs == {}
