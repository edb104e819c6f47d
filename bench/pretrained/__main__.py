"""`python -m bench.pretrained`: list the pretrained policies, add one, measure its gaps.

| command | |
|---|---|
| (none) | list the policies with their gaps |
| `add RUN NAME` | copy the policy of a finished run and write its card |
| `evaluate NAME [OPTION ...]` | measure the greedy gap with more options of `python -m bench` |
| `export NAME FOLDER` | write it as a Hugging Face model folder |
| `import FOLDER NAME` | add the policy of such a folder |
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
from omegaconf import OmegaConf

from bench.analysis.stats import student_interval
from bench.errors import UserError
from bench.instance import read_json
from bench.paths import output_folder
from bench.pretrained import (
    COST,
    MEASURED,
    PREFIX,
    PROBLEM,
    SETTING,
    TRAINING,
    hugging_face,
    keep,
    names,
    read_card,
    write_card,
)
from bench.programs import ArgumentParser, program

TABLE = "instances.parquet"


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """List, add or evaluate pretrained policies."""
    parser = ArgumentParser(prog="python -m bench.pretrained", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    add_parser = commands.add_parser("add", help="add the policy of a finished run")
    add_parser.add_argument("run", type=Path, help="the run's folder")
    add_parser.add_argument("name", help="the name of the policy")
    add_parser.add_argument("--note", default="", help="a sentence for the card")
    evaluate_parser = commands.add_parser("evaluate", help="measure gaps")
    evaluate_parser.add_argument("name", help=f"of {', '.join(names())}")
    evaluate_parser.add_argument("options", nargs="*", help="such as dataset=medium track=online")
    export_parser = commands.add_parser("export", help="write a Hugging Face model folder")
    export_parser.add_argument("name", help=f"of {', '.join(names())}")
    export_parser.add_argument("folder", type=Path, help="the folder to write")
    import_parser = commands.add_parser("import", help="add the policy of such a folder")
    import_parser.add_argument("folder", type=Path, help="the folder to read")
    import_parser.add_argument("name", help="the name of the policy")
    options = parser.parse_args(arguments)
    if options.command == "add":
        add(options.run, options.name, options.note)
    elif options.command == "export":
        hugging_face.export(options.name, output_folder("folder", options.folder))
    elif options.command == "import":
        keep(options.name, *hugging_face.read(options.folder))
    elif options.command == "evaluate":
        evaluate(options.name, options.options)
    for name in names():
        print(summary(name))
    return 0


def summary(name: str) -> str:
    """Return a policy, how it was trained and its gaps, as lines."""
    card = read_card(name)
    training = card["training"]
    lines = [
        f"{PREFIX}{name}: {training['solver']} on {training['dataset']} "
        f"({training['track']}, {training['objective']}, observes {training['observe']}), "
        f"{training['decisions']:,} decisions, {training['cpu_seconds']:,.0f} CPU seconds"
    ]
    for one in card["gaps"]:
        interval = "" if one["interval"] is None else f" {hugging_face.interval(one)}"
        lines.append(
            f"  {one['dataset']} ({one['split']}, {one['track']}): gap {one['gap_mean']:.2%}"
            f"{interval} over {one['n_instances']} instances"
        )
    return "\n".join(lines)


def add(run: Path, name: str, note: str = "") -> None:
    """Copy the policy of a finished run and write a card without gaps.

    Raises
    ------
    UserError
        Naming what the run lacks.
    """
    policy, record_file = run / "policy.pt", run / "result.json"
    for path in (policy, record_file):
        if not path.is_file():
            raise UserError(f"run: {path} does not exist; name the folder of a finished training")
    record: Any = read_json(record_file)
    if record.get("learning/decisions") is None:
        raise UserError(f"run: {run}: trained nothing; name the folder of the training itself")
    if missing := [key for key in TRAINING if key not in record]:
        raise UserError(f"run: {record_file}: no {missing[0]}: made by an earlier version")
    training = {
        **{key: record[key] for key in TRAINING},
        **{key: record[f"learning/{key}"] for key in COST},
        "hardware": record["hardware"],
        "options": read_options(run),
    }
    keep(name, policy.read_bytes(), {"note": note, "training": training, "gaps": []})


def read_options(run: Path) -> dict[str, Any]:
    """Return the configuration of the solver, the data set and the budget of a run.

    Of a file only the name is kept.
    """
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(config, dict)
    found = {key: config[key] for key in ("solver", "dataset", "budget") if key in config}
    shown: dict[str, Any] = without_folders(found)
    return shown


def without_folders(value: Any) -> Any:
    """Return nested options in which absolute paths are file names."""
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if isinstance(value, str) and Path(value).expanduser().is_absolute():
        return Path(value).name
    return value


def evaluate(name: str, options: Sequence[str]) -> None:
    """Measure the greedy gap of a policy and keep it in the card, with its interval."""
    card = read_card(name)
    training = card["training"]
    given = {option.partition("=")[0] for option in options}
    defaults = {"dataset": training["dataset"]} | {key: training[key] for key in SETTING}
    chosen = [f"{key}={value}" for key, value in defaults.items() if key not in given]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench", "+solver=ppo_greedy"]
        command += [f"solver.checkpoint={PREFIX}{name}", "baselines=[]", "tracking=off"]
        status = subprocess.run([*command, *chosen, *options, f"runs={folder}"], check=False)
        records = sorted(Path(folder).glob("*/*/result.json"))
        if status.returncode or not records:
            raise UserError(f"evaluate: {name}: the run failed, see above")
        record: Any = read_json(records[0])
        table = pandas.read_parquet(records[0].with_name(TABLE))
    if record["gap_mean"] is None or not math.isfinite(record["gap_mean"]):
        raise UserError(f"evaluate: {name}: no gap on {record['dataset']}: it has no bounds")
    entry = {key: record[key] for key in (*PROBLEM, *MEASURED)}
    _, low, high = student_interval(table[["gap"]])  # over the instances
    entry["interval"] = [low, high] if math.isfinite(low) else None
    others = [one for one in card["gaps"] if any(one[key] != entry[key] for key in PROBLEM)]
    card["gaps"] = sorted([*others, entry], key=lambda one: [one[key] for key in PROBLEM])
    write_card(name, card)


if __name__ == "__main__":
    sys.exit(main())
