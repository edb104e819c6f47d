"""Lublin-1 against published results of RLScheduler (Zhang et al., SC 2020, tables 5 and 6).

One pool of 256 processors in commit mode, events one at a time, arrivals before completions. The
result on each of the ten sequences equals that of the published simulator to 1e-9, for all rules.
For the corrected WFP3 and UNICEP only means are published.
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench import metrics
from bench.contracts import Budget
from bench.rollout import as_solver, setting_of
from bench.setting import Setting

DATA = Path(os.environ.get("BENCH_EXTERNAL_DATA", "")) / "swf"
CONF = Path(__file__).parents[2] / "conf"
pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(
        "BENCH_EXTERNAL_DATA" not in os.environ or not DATA.is_dir(),
        reason="BENCH_EXTERNAL_DATA names no folder with swf/lublin_256.swf.gz",
    ),
]
# rule -> (mean bounded slowdown of the ten sequences without and with backfilling, column of the
# published results of each sequence)
PUBLISHED = {
    "fifo": (7273.77, 235.82, "fcfs"),
    "sjf": (277.35, 73.31, "sjf"),
    "f1": (258.37, 75.07, "f1"),
    "wfp3_published": (19753.53, 133.87, "wfp"),
    "unicep_published": (22274.74, 307.23, "uni"),
    "wfp3": (337.34, 126.50, None),
    "unicep": (381.71, 103.10, None),
}


@pytest.fixture(scope="module")
def lublin():
    """Return the configured setting and the ten test instances."""
    config = OmegaConf.load(CONF / "dataset" / "lublin1.yaml")
    config.dataset.path = str(DATA / "lublin_256.swf.gz")
    setting = {key: config[key] for key in ("objective", "mode", "event_order")}
    return setting, list(instantiate(config.dataset).instances("test"))


def sequences(column, backfill):
    """Return (10,) published mean bounded slowdowns."""
    with (DATA / "lublin1_sequences.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["trace"], row["backfill"]) == ("lublin1", str(int(backfill)))
        ]
    return [float(row[column]) for row in sorted(rows, key=lambda row: int(row["sequence"]))]


def bounded_slowdowns(lublin, rule, backfill, count):
    """Return the mean bounded slowdown of a rule on each of the first `count` sequences."""
    given, instances = lublin
    policy = instantiate(OmegaConf.load(CONF / "solver" / f"{rule}.yaml"))
    setting = setting_of(
        policy, Setting(track="online", observe="arrived", backfill=backfill, **given)
    )
    found = []
    for instance in instances[:count]:
        result = as_solver(policy).solve(instance, setting, Budget(), np.random.default_rng(0))
        found.append(metrics.objective(instance, result.schedule, setting.objective))
    return found


@pytest.mark.parametrize("backfill", ["none", "easy"])
@pytest.mark.parametrize("rule", [rule for rule in PUBLISHED if PUBLISHED[rule][2]])
def test_the_bounded_slowdown_of_a_sequence_equals_the_published_one(lublin, rule, backfill):
    expected = sequences(PUBLISHED[rule][2], backfill == "easy")[:1]
    assert bounded_slowdowns(lublin, rule, backfill, 1) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("backfill", ["none", "easy"])
@pytest.mark.parametrize("rule", PUBLISHED)
def test_bounded_slowdowns_equal_the_published_ones(lublin, rule, backfill):
    mean, mean_backfilled, column = PUBLISHED[rule]
    found = bounded_slowdowns(lublin, rule, backfill, 10)
    assert round(float(np.mean(found)), 2) == (mean_backfilled if backfill == "easy" else mean)
    if column is not None:
        assert found == pytest.approx(sequences(column, backfill == "easy"), rel=1e-9)
