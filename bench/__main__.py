"""`python -m bench`: the command line.

A configuration is checked before anything runs, in a sweep that of every job. What the user got
wrong is one line and exit status 2 (HYDRA_FULL_ERROR=1 shows the traceback); a run that failed is a
row of the table and status 1.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from bench.cli import configuration, jobs, overrides, report, sweeps
from bench.cli.hydra_private import argument_parser
from bench.errors import UserError
from bench.plugins import CONF, GROUPS, members, own_packages
from bench.programs import failure

EXAMPLE = """
  python -m bench +solver=ppo dataset=small seed=0
  python -m bench -m +solver=ppo,cpsat,sjf dataset=small,medium seed=0,1,2
  python -m bench +solver=cql logs=cluster-small-mixed-v0
  python -m bench -m +tuning=ppo +solver=ppo dataset=small budget.decisions=200000
conf/config.yaml documents every option; a solver's own are solver.OPTION=VALUE; --cfg job shows
what a command means."""


def main(arguments: Sequence[str] | None = None) -> int:
    """List the plug-ins, or run.

    Returns
    -------
    int
        The exit status: 0 done, 1 something failed, 2 bad input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    if not arguments:
        groups = {group: members(group) for group in (*GROUPS, "tuning")}
        report.listing(report.output(), groups, EXAMPLE)
        return 0
    try:
        own_packages()
        return _start(arguments)
    except configuration.BAD_INPUT as error:
        return _bad_input(error)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        return failure(error)


def _start(arguments: list[str]) -> int:
    jobs.forget_data()
    flags = argument_parser().parse_intermixed_args(arguments)
    given = list(flags.overrides)
    options = [text for text in arguments if text not in given]
    flags.overrides = [
        f"+{text}" if text.startswith(("solver=", "tuning=")) else text for text in given
    ]
    if flags.config_name or flags.config_path:
        raise UserError(
            "--config-name, --config-path: the suite has one configuration, conf/config.yaml; put "
            "yaml files of your own into FOLDER/solver, FOLDER/dataset, ... and add "
            "--config-dir FOLDER"
        )
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        raise UserError(f"--config-dir: {flags.config_dir} is no folder")
    if flags.multirun and (flags.cfg or flags.info):
        raise UserError(
            "--multirun: a sweep has no single configuration to show; leave -m out and name one job"
        )
    flags.overrides = configuration.current_overrides(flags.overrides, flags.config_dir)
    overrides.check_overrides(flags)
    if flags.cfg:
        configuration.check_composition(flags)
    if flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion:
        return _hydra([*options, *flags.overrides])
    flags.multirun = flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides
    if not flags.multirun:
        (config,) = configuration.composed(flags)
        HydraConfig.instance().set_config(config)
        return jobs.run_alone(config)
    flags.overrides = overrides.for_sweep(flags.overrides)
    sweep = sweeps.sweep_of(configuration.composed(flags), flags.overrides)
    sweep.prepare()
    if sweep.runs_here:
        sweep.run()
        return sweep.finish()
    status = _hydra([*options, *flags.overrides, f"sweep={sweep.key}"])
    return max(status, sweep.finish())


def _hydra(arguments: Sequence[str]) -> int:
    """Hand over to Hydra, which calls `bench.cli.sweeps.run_job` once per job."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(
            sweeps.run_job
        )()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def _bad_input(error: Exception) -> int:
    """Say in one line what the user got wrong; return the status for it."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    where = ""
    text = str(error)
    if isinstance(error, OverrideParseException) and error.override:
        where = f"{error.override}: "
    elif isinstance(error, OmegaConfBaseException) and error.full_key:
        where = f"{error.full_key}: "
        text = str(error.msg or text).splitlines()[0]
    print(where + " ".join(text.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
