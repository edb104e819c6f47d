"""Checks every claim that a certificate makes about one instance.

`bench.run.record.StoredCertificate` defines the form. The schedule is verified and costed in plain
Python. The bound is checked by its proof, and where a part of it has none, by a second model
(`bench.verify.second_model`). No code is shared with the solvers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from bench.errors import plain_text
from bench.instance import Instance
from bench.schedule import Schedule
from bench.verify import verify
from bench.verify.fields import ProofError, UncheckableError
from bench.verify.problem import ExactObjective, ExactProblem, Number, in_digits
from bench.verify.proofs import KINDS, proven_bound
from bench.verify.second_model import solve_second_model

SCHEMA = 1
FIELDS = (
    "schema",
    "kind",
    "instance",
    "objective_name",
    "schedule",
    "objective",
    "objective_internal",
    "bound",
    "bound_internal",
    "status",
    "proof",
)
NUMBERS = ("objective", "objective_internal", "bound", "bound_internal")
SEARCH = "search"  # the kind of proof that cannot be checked beyond its root
CHECKED = "checked"
CONFIRMED = "confirmed by second model"
UNCHECKED = "could not be checked"
UNPROVEN = "not proven"
INVALID = "INVALID"
STATUSES = ("optimal", "feasible", "infeasible", "unknown")
LARGEST = 1e300  # no claimed number is above it; Python's integers have no limit
EQUAL = Fraction(1, 10**9)  # relative difference below which fractional values are the same


class CertificateError(ValueError):
    """A certificate that cannot be read; the message names the field and the fix."""


class Finding(NamedTuple):
    """The outcome of checking one claim."""

    part: str  # schedule | objective | bound | search | status
    outcome: str  # CHECKED | CONFIRMED | UNCHECKED | UNPROVEN | INVALID
    details: str

    def __str__(self) -> str:
        return f"{self.part:<10}{self.outcome}: {self.details}"


def is_wrong(findings: Iterable[Finding]) -> bool:
    """Return whether some claim is wrong."""
    return any(finding.outcome == INVALID for finding in findings)


def is_proven(findings: Iterable[Finding]) -> bool:
    """Return whether every claim has been checked, or confirmed by the second model.

    A bound counts by the last finding about it: the second model may confirm what a proof does not
    show. A certificate without a schedule claims only its bound.
    """
    last = {"bound" if one.part == "search" else one.part: one.outcome for one in findings}
    last.pop("schedule", None)
    return all(outcome in (CHECKED, CONFIRMED) for outcome in last.values())


@dataclass(frozen=True)
class Certificate:
    """A certificate of the right form, whose claims are not checked yet.

    Objective and bound are internal (minimised) values, None where none is claimed.

    Attributes
    ----------
    own_objective, own_bound
        The same two in the instance's own sense and scale, as claimed.
    title
        Instance, objective, solver and seed in words.
    """

    instance: Instance
    objective_name: str
    schedule: Schedule | None
    objective: float | None
    bound: float
    status: str
    proof: Mapping[str, Any]
    own_objective: float | None
    own_bound: float
    title: str

    @classmethod
    def from_dict(cls, data: Any) -> Certificate:
        """Read the JSON form.

        Raises
        ------
        CertificateError, InstanceError, ScheduleError
            Where it, its instance or its schedule is malformed.
        """
        _check_form(data)
        instance = Instance.from_dict(data["instance"])
        title = [
            instance.name or "unnamed instance",
            data["objective_name"],
            f"by {data.get('solver')}, seed {data.get('seed')}",
        ]
        return cls(
            instance=instance,
            objective_name=data["objective_name"],
            schedule=None if data["schedule"] is None else Schedule.from_dict(data["schedule"]),
            objective=data["objective_internal"],
            bound=data["bound_internal"],
            status=data["status"],
            proof=data["proof"],
            own_objective=data["objective"],
            own_bound=data["bound"],
            title=plain_text(", ".join(map(str, title))),
        )


def check(certificate: Certificate, seconds: float) -> Iterator[Finding]:
    """Yield the outcome for every claim; the second model may take `seconds`.

    Raises
    ------
    CertificateError
        For an objective that the instance does not have.
    """
    problem = ExactProblem(certificate.instance)
    try:
        objective = ExactObjective(problem, certificate.objective_name)
    except ValueError as error:
        raise CertificateError(str(error)) from None
    value = None
    for finding, cost in _check_schedule(certificate, problem, objective):
        value = cost if cost is not None else value
        yield finding
    findings = list(_check_bound(certificate, problem, objective, value, seconds))
    yield from findings
    if certificate.status in ("optimal", "infeasible"):
        yield _check_status(certificate, objective, value, findings)


# -- the schedule ----------------------------------------------------------------------------------


def _check_schedule(
    certificate: Certificate, problem: ExactProblem, objective: ExactObjective
) -> Iterator[tuple[Finding, Number | None]]:
    """Yield whether the schedule is feasible, then whether it has the claimed objective.

    The second finding comes with the exact cost of the schedule; it is left out where the schedule
    is infeasible.
    """
    if certificate.schedule is None:
        yield Finding("schedule", UNCHECKED, "there is none, only a bound is claimed"), None
        return
    violations = verify(certificate.instance, certificate.schedule)
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        yield Finding("schedule", INVALID, violations[0] + more), None
        return
    yield Finding("schedule", CHECKED, f"feasible, {problem.n} tasks on {problem.m} agents"), None
    value = objective.schedule_cost(certificate.schedule)
    claimed = certificate.objective
    own = certificate.own_objective
    assert claimed is not None  # checked by _check_form
    assert own is not None
    if not _same(claimed, value, objective):
        details = f"{claimed:.10g} claimed (internal), the schedule costs {in_digits(value)}"
        yield Finding("objective", INVALID, details), value
    elif details := _scale_mismatch(certificate.instance, claimed, own, objective):
        yield Finding("objective", INVALID, details), value
    else:
        yield Finding("objective", CHECKED, f"{certificate.objective_name} {own:.10g}"), value


def _scale_mismatch(
    instance: Instance, internal: float, own: float, objective: ExactObjective
) -> str:
    """Return, in words, how `own` differs from `internal` in the instance's own sense and scale.

    An empty text means that they agree.
    """
    expected = instance.original(internal)
    if _same(own, Fraction(expected), objective):
        return ""
    return f"{own:.10g} claimed, {internal:.10g} is {expected:.10g} in the instance's own sense"


# -- the bound -------------------------------------------------------------------------------------


def _check_bound(
    certificate: Certificate,
    problem: ExactProblem,
    objective: ExactObjective,
    value: Number | None,
    seconds: float,
) -> Iterator[Finding]:
    """Yield whether the bound has the right scale, is not above `value`, and has a valid proof.

    `value` is the exact cost of the schedule, None without a feasible one.
    """
    claimed = certificate.bound
    proof = certificate.proof
    if details := _scale_mismatch(certificate.instance, claimed, certificate.own_bound, objective):
        yield Finding("bound", INVALID, details)
        return
    if value is not None and not _at_least(value, Fraction(claimed), objective):
        details = f"{claimed:.10g} claimed (internal), but the schedule costs {in_digits(value)}"
        yield Finding("bound", INVALID, details)
        return
    if proof["kind"] == SEARCH:
        shown = yield from _check_root(certificate, problem, objective)
        if shown is None or not _at_least(shown, Fraction(claimed), objective):
            yield check_by_second_model(certificate, problem, objective, value, seconds)
        return
    try:
        shown = proven_bound(problem, objective, proof)
    except ProofError as error:
        yield Finding("bound", INVALID, str(error))
    except UncheckableError as error:
        yield Finding("bound", UNCHECKED, str(error))
        yield check_by_second_model(certificate, problem, objective, value, seconds)
    else:
        proven = _at_least(shown, Fraction(claimed), objective)
        details = (
            f"{claimed:.10g} claimed (internal), "
            f"the proof ({proof['kind']}) shows {in_digits(shown)}"
        )
        yield Finding("bound", CHECKED if proven else INVALID, details)


def _check_root(
    certificate: Certificate, problem: ExactProblem, objective: ExactObjective
) -> Generator[Finding, None, Number | None]:
    """Yield whether the proof at the root of a tree search is valid; return the bound it shows.

    Returns None where there is no such proof or it is not valid.
    """
    root = certificate.proof.get("root")
    claimed = f"{certificate.bound:.10g}"
    if root is None:
        details = f"{claimed} (internal) was proved by tree search, which leaves no proof"
        yield Finding("bound", UNCHECKED, details)
        return None
    try:
        shown = proven_bound(problem, objective, root)
    except ProofError as error:
        yield Finding("bound", INVALID, str(error).replace("proof.", "proof.root.", 1))
        return None
    except UncheckableError as error:
        yield Finding("bound", UNCHECKED, str(error))
        return None
    details = f"the root ({root['kind']}) shows {in_digits(shown)} of {claimed} (internal)"
    if shown < certificate.bound:
        details += "; the rest was proved by tree search"
    yield Finding("bound", CHECKED, details)
    return shown


def check_by_second_model(
    certificate: Certificate,
    problem: ExactProblem,
    objective: ExactObjective,
    value: Number | None,
    seconds: float,
) -> Finding:
    """Return whether the second model confirms a bound, refutes it by a schedule, or neither."""
    claimed = certificate.bound
    try:
        result = solve_second_model(problem, objective, seconds, value)
    except UncheckableError as error:
        return Finding("search", UNCHECKED, str(error))
    best: Number | None = None
    if result.schedule is not None and not verify(certificate.instance, result.schedule):
        best = objective.schedule_cost(result.schedule)
    found = "it found no schedule"
    if best is not None:
        found = f"its best schedule costs {in_digits(best)}"
    details = (
        f"{claimed:.10g} claimed (internal), "
        f"the second model's bound is {result.bound:.10g}, {found}"
    )
    if best is not None and not _at_least(best, Fraction(claimed), objective):
        return Finding("search", INVALID, details)
    slack = 0 if objective.integral else 1e-6 * abs(claimed)  # HiGHS computes in floating point
    if result.bound >= claimed - slack:
        return Finding("search", CONFIRMED, details)
    return Finding("search", UNCHECKED, f"{details}, within {seconds:g} s")


def _check_status(
    certificate: Certificate,
    objective: ExactObjective,
    value: Number | None,
    findings: list[Finding],
) -> Finding:
    """Return whether objective and bound meet, with the outcome that the bound has."""
    if certificate.status == "infeasible":
        if value is not None:
            return Finding("status", INVALID, "claimed infeasible, but its schedule is feasible")
        return Finding("status", UNPROVEN, "claimed infeasible, which no certificate shows")
    bound = Fraction(certificate.bound)
    if objective.integral:
        bound = Fraction(math.ceil(bound))
    if value is None or not _same(bound, value, objective):
        return Finding("status", INVALID, "claimed optimal, but objective and bound do not meet")
    if is_wrong(findings):
        details = f"objective and bound meet, but the bound is {INVALID}"
        return Finding("status", UNPROVEN, details)
    if not is_proven(findings):
        details = "claimed optimal; objective and bound meet, but the bound is not proven"
        return Finding("status", UNPROVEN, details)
    details = "objective and bound meet, the schedule is optimal"
    return Finding("status", findings[-1].outcome, details)


# -- numbers ---------------------------------------------------------------------------------------


def _at_least(value: Number, other: Number, objective: ExactObjective) -> bool:
    """Return value >= other, up to rounding where costs are fractional."""
    slack = 0 if objective.integral else EQUAL * abs(Fraction(other))
    return value >= other - slack


def _same(claimed: Number | float, value: Number, objective: ExactObjective) -> bool:
    exact = Fraction(claimed)
    return _at_least(exact, value, objective) and _at_least(value, exact, objective)


# -- the form --------------------------------------------------------------------------------------


def _check_form(data: Any) -> None:
    """Raise CertificateError where the JSON form is malformed, except for instance and schedule."""
    if not isinstance(data, Mapping) or data.get("kind") != "certificate":
        raise CertificateError(
            "kind: this is no certificate; of an instance and a schedule, name both files"
        )
    schema = data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise CertificateError(f"schema: an integer of at least 1 is needed, got {schema!r}")
    if schema > SCHEMA:
        raise CertificateError(
            f"schema: {schema} is newer than {SCHEMA}, the newest this version reads; upgrade"
        )
    for name in FIELDS:
        if name not in data:
            raise CertificateError(f"{name}: missing")
    for name in NUMBERS:
        value = data[name]
        needed = data["schedule"] is not None or name.startswith("bound")
        if (needed or value is not None) and not _is_finite_number(value):
            raise CertificateError(f"{name}: a finite number is needed, got {_shown(value)}")
    if data["status"] not in STATUSES:
        raise CertificateError(
            f"status: must be one of {', '.join(STATUSES)}, got {_shown(data['status'])}"
        )
    _check_kind("proof", data["proof"])


def _is_finite_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def _shown(value: Any) -> str:
    """Return a value as text, shortened; an integer that is too large for one by its size."""
    if type(value) is int and abs(value) > LARGEST:
        return f"one beyond {LARGEST:g}"
    return repr(value)[:40]


def _check_kind(field: str, proof: Any) -> None:
    """Raise CertificateError where a proof, or the root of a tree search, is of no known kind."""
    if not isinstance(proof, Mapping) or "kind" not in proof:
        raise CertificateError(f"{field}.kind: missing")
    kinds = [*KINDS, *([SEARCH] if field == "proof" else [])]
    if proof["kind"] not in kinds:
        raise CertificateError(
            f"{field}.kind: {str(proof['kind'])[:40]!r} is unknown; "
            f"this version checks {', '.join(kinds)}"
        )
    if proof["kind"] == SEARCH and proof.get("root") is not None:
        _check_kind(f"{field}.root", proof["root"])
