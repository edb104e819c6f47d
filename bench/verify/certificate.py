"""A certificate (the form is in `bench.run.record`): what a solver claims of one instance, and what becomes of every claim.

The schedule is verified and costed in plain Python; the bound is checked by its proof, and where a part of it has none, by a
second model (`bench.verify.second_model`). Nothing is shared with the solvers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from bench.instance import Instance
from bench.schedule import Schedule
from bench.verify import verify
from bench.verify.fields import ProofError, UncheckableError
from bench.verify.problem import Costs, Number, Problem
from bench.verify.proofs import KINDS, proved
from bench.verify.second_model import search

SCHEMA = 1
FIELDS = ("schema", "kind", "instance", "objective_name", "schedule", "objective", "objective_internal", "bound",
          "bound_internal", "status", "proof")  # fmt: skip
NUMBERS = ("objective", "objective_internal", "bound", "bound_internal")
TREE = "search"  # the kind of proof that has no end of its own
CHECKED, CONFIRMED, UNCHECKED, WRONG = (
    "checked",
    "confirmed by second model",
    "could not be checked",
    "WRONG",
)
EQUAL = Fraction(1, 10**9)  # relative difference below which fractional values are the same


class CertificateError(ValueError):
    """A certificate that cannot be read; the message names the field and the fix."""


class Finding(NamedTuple):
    """What became of one claim."""

    part: str  # schedule | objective | bound | search | status
    verdict: str  # CHECKED | CONFIRMED | UNCHECKED | WRONG
    words: str

    def __str__(self) -> str:
        return f"{self.part:<10}{self.verdict}: {self.words}"


@dataclass(frozen=True)
class Certificate:
    """A certificate whose form is right. Objective and bound are internal (minimised) values; None where none is claimed."""

    instance: Instance
    objective_name: str
    schedule: Schedule | None
    objective: float | None
    bound: float
    status: str
    proof: Mapping[str, Any]
    own: tuple[float | None, float]  # objective and bound in the instance's own sense, as claimed
    title: str

    @classmethod
    def from_dict(cls, data: Any) -> Certificate:
        """Raises CertificateError, or the error of the instance or schedule."""
        if not isinstance(data, Mapping) or data.get("kind") != "certificate":
            raise CertificateError(
                "kind: this is no certificate; of an instance and a schedule, name both files"
            )
        schema = data.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise CertificateError(
                f"schema: a whole number of at least 1 is needed, got {schema!r}"
            )
        if schema > SCHEMA:
            raise CertificateError(
                f"schema: {schema} is newer than {SCHEMA}, the newest this version reads; upgrade"
            )
        for name in FIELDS:
            if name not in data:
                raise CertificateError(f"{name}: missing")
        claimed = data["schedule"] is not None
        for name in NUMBERS:
            if (data[name] is not None or claimed or name.startswith("bound")) and not _is_number(
                data[name]
            ):
                raise CertificateError(f"{name}: a finite number is needed, got {data[name]!r}")
        _check_proof("proof", data["proof"])
        instance = Instance.from_dict(data["instance"])
        about = [
            instance.name or "unnamed instance",
            data["objective_name"],
            f"by {data.get('solver')}, seed {data.get('seed')}",
        ]
        return cls(
            instance, data["objective_name"], Schedule.from_dict(data["schedule"]) if claimed else None,
            data["objective_internal"], data["bound_internal"], data["status"], data["proof"],
            (data["objective"], data["bound"]), ", ".join(map(str, about)),
        )  # fmt: skip


def check(certificate: Certificate, seconds: float) -> Iterator[Finding]:
    """What becomes of every claim; the second model may take `seconds`.

    Raises:
        CertificateError: for an objective the instance does not have.
    """
    problem = Problem(certificate.instance)
    try:
        costs = Costs(problem, certificate.objective_name)
    except ValueError as error:
        raise CertificateError(str(error)) from None
    value = None
    for finding, cost in _schedule(certificate, problem, costs):
        value = cost if cost is not None else value
        yield finding
    found = list(_bound(certificate, problem, costs, value, seconds))
    yield from found
    if certificate.status == "optimal":
        yield _status(certificate, costs, value, found)


# -- the schedule ----------------------------------------------------------------------------------------------------


def _schedule(
    certificate: Certificate, problem: Problem, costs: Costs
) -> Iterator[tuple[Finding, Number | None]]:
    """Feasible, and as cheap as claimed; with the second finding comes the exact cost of a feasible schedule."""
    if certificate.schedule is None:
        yield Finding("schedule", UNCHECKED, "there is none, only a bound is claimed"), None
        return
    violations = verify(certificate.instance, certificate.schedule)
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        yield Finding("schedule", WRONG, violations[0] + more), None
        return
    yield Finding("schedule", CHECKED, f"feasible, {problem.n} tasks on {problem.m} agents"), None
    value, claimed, own = (
        costs.schedule(certificate.schedule, problem.n),
        certificate.objective,
        certificate.own[0],
    )
    assert claimed is not None  # from_dict saw to it
    assert own is not None
    if not _same(claimed, value, costs):
        yield (
            Finding(
                "objective",
                WRONG,
                f"{claimed:.10g} claimed (internal), the schedule costs {float(value):.10g}",
            ),
            value,
        )
    elif not _same(own, Fraction(certificate.instance.original(claimed)), costs):
        scaled = certificate.instance.original(claimed)
        yield (
            Finding(
                "objective",
                WRONG,
                f"{own:.10g} claimed, {claimed:.10g} is {scaled:.10g} in the instance's own sense",
            ),
            value,
        )
    else:
        yield Finding("objective", CHECKED, f"{certificate.objective_name} {own:.10g}"), value


# -- the bound -------------------------------------------------------------------------------------------------------


def _bound(
    certificate: Certificate, problem: Problem, costs: Costs, value: Number | None, seconds: float
) -> Iterator[Finding]:
    """The bound is what it says in the instance's own sense, not above the objective, and shown by its proof."""
    claimed, own = certificate.bound, certificate.own[1]
    scaled = certificate.instance.original(claimed)
    if not _same(own, Fraction(scaled), costs):
        yield Finding(
            "bound",
            WRONG,
            f"{own:.10g} claimed, {claimed:.10g} is {scaled:.10g} in the instance's own sense",
        )
        return
    if value is not None and not _at_least(value, Fraction(claimed), costs):
        yield Finding(
            "bound",
            WRONG,
            f"{claimed:.10g} claimed (internal), but the schedule costs {float(value):.10g}",
        )
        return
    kind, proof = certificate.proof["kind"], certificate.proof
    if kind == TREE:
        shown = yield from _root(certificate, problem, costs)
        if shown is None or not _at_least(shown, Fraction(claimed), costs):
            yield second_opinion(certificate, problem, costs, value, seconds)
        return
    try:
        shown = proved(problem, costs, proof)
    except ProofError as error:
        yield Finding("bound", WRONG, str(error))
    except UncheckableError as error:
        yield Finding("bound", UNCHECKED, str(error))
        yield second_opinion(certificate, problem, costs, value, seconds)
    else:
        fine = _at_least(shown, Fraction(claimed), costs)
        words = f"{claimed:.10g} claimed (internal), the proof ({kind}) shows {float(shown):.10g}"
        yield Finding("bound", CHECKED if fine else WRONG, words)


def _root(certificate: Certificate, problem: Problem, costs: Costs) -> Any:
    """Check what a tree search started from; returns the bound it shows, if any."""
    root = certificate.proof.get("root")
    if root is None:
        yield Finding(
            "bound",
            UNCHECKED,
            f"{certificate.bound:.10g} (internal) was proved by tree search, which leaves no proof",
        )
        return None
    try:
        shown = proved(problem, costs, root)
    except ProofError as error:
        yield Finding("bound", WRONG, str(error).replace("proof.", "proof.root.", 1))
        return None
    except UncheckableError as error:
        yield Finding("bound", UNCHECKED, str(error))
        return None
    words = f"the root ({root['kind']}) shows {float(shown):.10g} of {certificate.bound:.10g} (internal)"
    yield Finding(
        "bound",
        CHECKED,
        words + ("" if shown >= certificate.bound else "; the rest was proved by tree search"),
    )
    return shown


def second_opinion(
    certificate: Certificate, problem: Problem, costs: Costs, value: Number | None, seconds: float
) -> Finding:
    """What the second model says of a bound: confirmed, refuted by a schedule, or undecided in `seconds`."""
    claimed = certificate.bound
    try:
        opinion = search(problem, costs, seconds, value)
    except UncheckableError as error:
        return Finding("search", UNCHECKED, str(error))
    best: Number | None = None
    if opinion.schedule is not None and not verify(certificate.instance, opinion.schedule):
        best = costs.schedule(opinion.schedule, problem.n)
    found = (
        f"its best schedule costs {float(best):.10g}"
        if best is not None
        else "it found no schedule"
    )
    words = f"{claimed:.10g} claimed (internal), the second model's bound is {opinion.bound:.10g}, {found}"
    if best is not None and not _at_least(best, Fraction(claimed), costs):
        return Finding("search", WRONG, words)
    slack = 0 if costs.whole else 1e-6 * abs(claimed)  # HiGHS counts in floating point
    if opinion.bound >= claimed - slack:
        return Finding("search", CONFIRMED, words)
    return Finding("search", UNCHECKED, f"{words}, within {seconds:g} s")


def _status(
    certificate: Certificate, costs: Costs, value: Number | None, found: list[Finding]
) -> Finding:
    """Objective and bound meet; that is as sure as the bound is."""
    bound = Fraction(certificate.bound)
    if value is None or not _same(math.ceil(bound) if costs.whole else bound, value, costs):
        return Finding("status", WRONG, "claimed optimal, but objective and bound do not meet")
    if any(finding.verdict == WRONG for finding in found):
        return Finding("status", UNCHECKED, "objective and bound meet, but the bound is WRONG")
    return Finding("status", found[-1].verdict, "objective and bound meet, the plan is optimal")


# -- numbers ---------------------------------------------------------------------------------------------------------


def _at_least(value: Number, other: Number, costs: Costs) -> bool:
    """value >= other; fractional values may be rounded."""
    slack = 0 if costs.whole else EQUAL * abs(Fraction(other))
    return value >= other - slack


def _same(claimed: Number | float, value: Number, costs: Costs) -> bool:
    exact = Fraction(claimed)
    return _at_least(exact, value, costs) and _at_least(value, exact, costs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_proof(where: str, proof: Any) -> None:
    """Raises CertificateError where a proof, or the root of a tree search, has no kind that is known."""
    if not isinstance(proof, Mapping) or "kind" not in proof:
        raise CertificateError(f"{where}.kind: missing")
    kinds = [*KINDS, *([TREE] if where == "proof" else [])]
    if proof["kind"] not in kinds:
        raise CertificateError(
            f"{where}.kind: {str(proof['kind'])[:40]!r} is unknown; this version checks {', '.join(kinds)}"
        )
    if proof["kind"] == TREE and proof.get("root") is not None:
        _check_proof(f"{where}.root", proof["root"])
