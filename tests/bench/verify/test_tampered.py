"""Tampered certificates: one line and the right exit status, never a traceback.

What was not proven is never called optimal and has its own exit status.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.schedule import Schedule
from bench.verify.__main__ import PROVEN, UNPROVEN, UNREADABLE, WRONG, main
from tests.bench.verify.examples import (
    SEARCH,
    VALID,
    CertificateForm,
    certificate,
    machine,
    valid_certificate,
)

HUGE = 10**400
MISSING = object()
VALUES = (
    MISSING,
    None,
    True,
    "x",
    "9",
    [],
    {},
    [[[[]]]],
    -1,
    0,
    1.5,
    HUGE,
    -HUGE,
    math.nan,
    math.inf,
)
LONG = machine(duration=[[200_001], [400_001]])  # too long for the second model
Check = Callable[[Any], tuple[int, str, str]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Write a value as JSON and check it: (status, output, errors)."""

    def run(data: Any) -> tuple[int, str, str]:
        (tmp_path / "c.json").write_text(json.dumps(data))
        status = main([str(tmp_path / "c.json")])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def long_first() -> CertificateForm:
    """A plan that gets better where its two tasks change places, claimed to be optimal."""
    schedule = Schedule.from_assignment(LONG, [0, 0], [400_001, 0])
    return certificate(LONG, schedule, 1_000_003.0, SEARCH)


@pytest.mark.parametrize("root", [{"kind": "trivial"}, None])
def test_a_plan_with_a_better_neighbour_is_not_called_optimal(root: Any, check: Check) -> None:
    status, out, err = check(long_first() | {"proof": {**SEARCH, "root": root}})
    assert (status, err) == (UNPROVEN, "")
    assert "is optimal" not in out
    assert "claimed optimal; objective and bound meet, but the bound is not proven" in out


def test_a_bound_that_nobody_proved_is_not_proven(check: Check) -> None:
    feasible = long_first() | {"status": "feasible"}
    assert check(feasible)[0] == UNPROVEN
    alone = {"schedule": None, "objective": None, "objective_internal": None}
    assert check({**feasible, **alone})[0] == UNPROVEN


def test_infeasibility_is_not_proven_and_wrong_beside_a_schedule(check: Check) -> None:
    form = valid_certificate("capacity_prices")
    assert check(form | {"status": "infeasible"})[0] == WRONG
    alone = {"schedule": None, "objective": None, "objective_internal": None}
    status, out, _ = check(form | alone | {"status": "infeasible"})
    assert status == UNPROVEN
    assert "claimed infeasible, which no certificate shows" in out


@pytest.mark.parametrize("value", [HUGE, -HUGE, math.inf, math.nan, True, "8", [8], None])
@pytest.mark.parametrize("name", ["bound", "bound_internal", "objective", "objective_internal"])
def test_a_number_that_is_none_is_unreadable(name: str, value: Any, check: Check) -> None:
    status, out, err = check(valid_certificate("capacity_prices") | {name: value})
    assert (status, out, err.count("\n")) == (UNREADABLE, "", 1)
    assert f"{name}: a finite number is needed, got " in err


@pytest.mark.parametrize("status", ["proved", 5, None, ["optimal"]])
def test_an_unknown_status_is_unreadable(status: Any, check: Check) -> None:
    found, _, err = check(valid_certificate("trivial") | {"status": status})
    assert found == UNREADABLE
    assert "status: must be one of optimal, feasible, infeasible, unknown" in err


def test_dual_values_beyond_all_floats_are_shown(check: Check) -> None:
    form = valid_certificate("knapsack_multipliers")
    form["proof"] = {**form["proof"], "multipliers": [-HUGE, -HUGE]}
    status, out, err = check(form)
    assert (status, err) == (WRONG, "")
    assert "shows -about 1e+400" in out


def test_a_name_is_shown_in_one_line_without_control_characters(check: Check) -> None:
    form = valid_certificate("trivial")
    form["instance"]["name"] = "a\n\x1b[2Jfeasible"
    _, out, _ = check(form | {"solver": "x\ny"})
    assert out.splitlines()[0].endswith("a [2Jfeasible, total_time, by x y, seed 0")


def test_the_worst_of_several_certificates_is_the_status(check: Check) -> None:
    proven = valid_certificate("trivial")
    unproven = long_first()
    wrong = proven | {"bound": 9.0, "bound_internal": 9.0}
    unreadable = proven | {"bound": HUGE}
    assert check([proven, proven])[0] == PROVEN
    assert check([proven, unproven])[0] == UNPROVEN
    assert check([unproven, unreadable, proven])[0] == UNREADABLE
    assert check([unproven, unreadable, wrong, proven])[0] == WRONG


# -- each field, each wrong value ------------------------------------------------------------------


def places(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every field, and of the first entry of every list."""
    inside = data.items() if isinstance(data, dict) else enumerate(data[:1])
    for key, value in inside:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def tampered(kind: str) -> Iterator[tuple[str, CertificateForm]]:
    """Yield (what was changed, the certificate) for every field and value."""
    valid = valid_certificate(kind)
    for place in places(valid):
        for value in VALUES:
            data = copy.deepcopy(valid)
            at: Any = data
            for key in place[:-1]:
                at = at[key]
            if value is MISSING:
                del at[place[-1]]
            else:
                at[place[-1]] = value
            yield f"{kind} {place} {str(value)[:9] if value is not MISSING else 'missing'}", data


QUICK = ("slot_prices",)
KINDS = [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in VALID]


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_with_a_wrong_value_is_one_line_never_a_traceback(
    kind: str, check: Check
) -> None:
    for what, data in tampered(kind):
        status, out, err = check(data)
        assert status in (PROVEN, WRONG, UNREADABLE, UNPROVEN), what
        assert err.count("\n") == (status == UNREADABLE), what
        assert "Error" not in err or "offset" in what, (what, err)
        if status == UNPROVEN:
            assert "is optimal" not in out, what
