"""Runs that the tests of the offline evaluation report share."""

import json
from pathlib import Path

import pandas

from bench.instance import read_json

RESULTS = Path(__file__).parents[3] / "bench" / "results"

SHIPPED_INSTANCES = read_json(RESULTS / "planners.json")["sets"]["medium"]["hashes"][:2]
CONFIG = "solver: {alpha: 1.0, logs: {name: some-v0}}\nbudget: {decisions: 10}\nseed: 0\n"


def sample_run(
    solver="bc",
    log="cluster-small-mixed-v0",
    seed=0,
    true=-1.4,
    behaviour=-2.0,
    gaps=(0.1, 0.2),
    finished=1.0,
    **more,
):
    """Return a finished offline run as it is stored."""
    candidates = [true - 0.1, true]
    estimates = {f"ope/{name}_of_candidates": candidates for name in ("fqe", "dr", "wis", "is")}
    return {
        "dataset": "small",
        "split": "test",
        "solver": solver,
        "seed": seed,
        "finished": finished,
        "gaps": list(gaps),
        "logs/name": log,
        "logs/hash": "0" * 64,
        "logs/episodes": 10,
        "logs/decisions": 100,
        "logs/return": behaviour,
        "logs/best_behaviour_return": behaviour,
        "logs/held_out_return": behaviour,
        "ope/fqe": true,
        "ope/true": true,
        "ope/true_of_candidates": candidates,
        **estimates,
        **more,
    }


def run_without_log(solver="best_rule", gaps=(0.2, 0.2), **more):
    """Return a finished run of a rule or an online learner."""
    return {
        "dataset": "small",
        "split": "test",
        "solver": solver,
        "seed": 0,
        "finished": 1.0,
        "gaps": list(gaps),
        **more,
    }


def failed_run(solver, log=None):
    """Return a failed run."""
    run = {**run_without_log(solver, gaps=()), "status": "failed"}
    return run if log is None else {**run, "logs/name": log}


def decisions_to(sjf, best_rule, nearly_final):
    """Return the training cost of an online learner until each goal; None: never reached."""
    return {
        "learning/decisions_to_sjf": sjf,
        "learning/decisions_to_best_rule": best_rule,
        "learning/decisions_to_nearly_final": nearly_final,
    }


def write_run(folder, record, config=CONFIG, instances=SHIPPED_INSTANCES):
    """Write a run folder with two instances, one of which has no schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(config)
    table = {
        "instance_hash": list(instances),
        "objective": [1234.0, None],
        "gap": [0.25, None],  # to what was known when the run ended
    }
    pandas.DataFrame(table).to_parquet(folder / "instances.parquet")
