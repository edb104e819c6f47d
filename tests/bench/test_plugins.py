"""Plug-ins are found by their yaml files alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import plugins
from bench.contracts import Policy

RULES = [
    *("drf", "edf", "eft", "f1", "fifo", "fifo_skip", "hrrn", "ljf", "max_min", "min_min", "sjf"),
    *("sufferage", "tetris", "unicep", "wfp3", "wspt"),
]
HEAVY = ("ortools", "scipy.optimize", "solvers.exact", "torch", "pandas", "matplotlib", "mlflow")


def test_rules_are_the_dispatch_rules_of_conf() -> None:
    found = plugins.rules()
    assert set(RULES) <= set(found)
    assert not {"random", "allox", "cpsat_rolling", "wfp3_published", "ppo"} & set(found)
    assert list(found) == sorted(found)
    assert all(isinstance(rule, Policy) and rule.baseline for rule in found.values())


def test_a_new_yaml_is_a_new_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text("_target_: solvers.rules.SJF\nskip: false\n")
    (tmp_path / "solver" / "random.yaml").write_text("_target_: solvers.rules.Random\n")
    (tmp_path / "solver" / "old.yaml").write_text("_target_: solvers.rules.WFP3\npublished: true\n")
    (tmp_path / "solver" / "broken.yaml").write_text("_target_: solvers.rules.Missing\n")
    monkeypatch.setattr(plugins, "CONF", tmp_path)
    found = plugins.rules()
    assert list(found) == ["mine"]
    assert vars(found["mine"])["skip"] is False


def test_a_plug_in_is_built_with_its_defaults_and_changes() -> None:
    solver = plugins.load("solver", "cpsat", threads=1)
    assert (solver.threads, type(solver.warm_start).__name__) == (1, "BestRule")
    assert plugins.load("dataset", "tiny").name == "tiny"
    assert plugins.load("logs", "cluster-tiny-random-v0").data.name == "tiny"


def test_a_rule_runs_without_the_libraries_of_other_plug_ins() -> None:
    """They take seconds to import. References of `tiny` are in files: no solver is needed."""
    command = f"""
import sys
from bench.cli import jobs
from bench.cli.configuration import composed
from bench.cli.hydra_private import argument_parser
line = ["+solver=sjf", "dataset=tiny", "tracking=off"]
(config,) = composed(argument_parser().parse_args(line))
from hydra.core.hydra_config import HydraConfig
HydraConfig.instance().set_config(config)
setup = jobs.JobSetup.of(config, "sjf")
assert list(config.baselines) == {sorted(plugins.rules())!r}
instance = setup.job.instances[0]
assert setup.references.known(instance, "total_time").proved
print(*(name for name in {HEAVY!r} if name in sys.modules))
assert setup.references.solver.certifies and "ortools" in sys.modules  # when it is needed
"""
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("\n", 0), found.stderr
