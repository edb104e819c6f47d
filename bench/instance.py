"""The problem in matrix form: integer arrays that are checked when an instance is built.

Symbols: N tasks, M agents, T agent types, R resources, U tenants; p_jt is the duration of task j on
an agent of type t. Times are ticks of `tick_seconds` s. Fields: `bench/docs/problem.md`, section 1.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.files import write_bytes
from bench.json_content import parse_json
from bench.limits import (
    MAX_INTEGER,
    MAX_TENANTS,
    MIN_TICK_SECONDS,
    InstanceError,
    Ints,
    check_objective,
    integer_array,
    last_tick,
    require,
)

__all__ = [
    "KINDS",
    "NOT_ELIGIBLE",
    "SCHEMA",
    "Instance",
    "InstanceError",
    "Ints",
    "Outage",
    "integer_array",
    "read_json",
    "write_json",
]

SCHEMA = 1
KINDS = ("preprocess", "train", "inference", "deploy")
NOT_ELIGIBLE = -1


class Outage(NamedTuple):
    """An interval [start, end) in ticks in which an agent is away."""

    agent: int
    start: int
    end: int
    announced: bool = True  # known in advance


@dataclass(frozen=True, eq=False)
class Instance:
    """A scheduling problem R | r_j, size_j | sum w_j F_j with capacities, tenants and outages.

    Arrays may be given as nested lists; they are checked, converted to int64 and made read-only.

    Raises
    ------
    InstanceError
        If a field breaks a rule; the message names the field, the index and the rule.
    """

    duration: Ints  # (N, T) ticks p_jt >= 1 on an agent of type t, -1 = not eligible there
    demand: Ints  # (N, T, R) units of each resource that j holds on an agent of type t
    capacity: Ints  # (M, R) units of each agent
    agent_type: Ints  # (M,) type of each agent, in [0, T)
    release: Ints = None  # type: ignore[assignment]  # (N,) arrival tick r_j; default 0
    weight: Ints = None  # type: ignore[assignment]  # (N,) priority w_j >= 0; default 1
    due: Ints | None = None  # (N,) due date d_j, absolute tick
    tenant: Ints | None = None  # (N,) tenant of each task, in [0, U)
    quota: Ints | None = None  # (U, R) units that a tenant's running tasks may hold in total
    kind: Ints = None  # type: ignore[assignment]  # (N,) index into KINDS; default "train"
    estimate: Ints = None  # type: ignore[assignment]  # (N, T) shown online; default `duration`
    outages: tuple[Outage, ...] = ()  # sorted by agent and start
    sharing: str = "time"  # time: units are released when a task ends | budget: never (GAP)
    resources: tuple[str, ...] = ()  # (R,) names; default resource0, resource1, ...
    tick_seconds: float = 1.0  # seconds per tick
    sense: str = "min"  # sense of the original objective; "max" only with `budget` sharing
    offset: int = 0  # K of the cost mapping: c' = c + K (min) or c' = K - c (max)
    name: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema > SCHEMA:
            raise InstanceError(
                f"schema: {self.schema} is newer than {SCHEMA}, the newest this version reads; "
                "upgrade"
            )
        n, t, m, r = self._check_required_arrays()
        self._fill_defaults(n)
        for field, ndim in (("release", 1), ("weight", 1), ("kind", 1), ("estimate", 2)):
            self._set_array(field, getattr(self, field), ndim)
        for field, ndim in (("due", 1), ("tenant", 1), ("quota", 2)):
            if getattr(self, field) is not None:
                self._set_array(field, getattr(self, field), ndim)
        object.__setattr__(self, "resources", self._checked_names(r))
        object.__setattr__(self, "outages", self._checked_outages())
        self._check_shapes(n, m, t, r)
        self._check_durations()
        self._check_tasks_and_agents()
        self._check_scalars()
        self._check_sharing()
        self._check_runnable()
        self._check_size()

    # -- sizes and derived quantities --------------------------------------------------------------

    @property
    def n_tasks(self) -> int:
        """N."""
        return len(self.duration)

    @property
    def n_agents(self) -> int:
        """M."""
        return len(self.capacity)

    @property
    def n_types(self) -> int:
        """T."""
        return int(self.duration.shape[1])

    @property
    def n_resources(self) -> int:
        """R."""
        return int(self.capacity.shape[1])

    @property
    def n_tenants(self) -> int:
        """U, 0 without quotas."""
        return 0 if self.quota is None else len(self.quota)

    @property
    def may_kill(self) -> bool:
        """Whether an outage can kill a running task.

        It can if it is not announced, or if the estimates that announced outages are planned with
        are wrong.
        """
        exact = np.array_equal(self.estimate, self.duration)
        return bool(self.outages) and not (exact and all(o.announced for o in self.outages))

    def shortest(self) -> Ints:
        """Return (N,) ticks: the minimum of p_jt over the types in `runnable`."""
        ticks = np.where(self.runnable(), self.duration, np.iinfo(np.int64).max)
        return np.asarray(ticks.min(axis=1))

    def longest(self) -> Ints:
        """Return (N,) ticks: the maximum of p_jt over the types in `runnable`."""
        return np.asarray(np.where(self.runnable(), self.duration, 0).max(axis=1))

    def runnable(self) -> NDArray[np.bool_]:
        """Return (N, T): whether task j can run on type t.

        It can if j is eligible there and at least one agent of the type, and the quota of j's
        tenant, cover its demand alone.
        """
        covered = np.zeros(self.duration.shape, dtype=bool)
        for t in range(self.n_types):
            for capacity in set(map(tuple, self.capacity[self.agent_type == t].tolist())):
                covered[:, t] |= (self.demand[:, t] <= capacity).all(axis=-1)
        covered &= self.duration != NOT_ELIGIBLE
        if self.quota is not None:
            covered &= (self.demand <= self.quota[self.tenant][:, None, :]).all(axis=-1)
        return covered

    def original(self, value: float) -> float:
        """Return a minimised objective or bound in the instance's own sense and scale.

        It is the inverse of the cost mapping c' = c + K or c' = K - c, where K is `offset`.
        """
        shift = self.offset * float(self.weight.sum())
        return shift - value if self.sense == "max" else value - shift

    def hash(self) -> str:
        """Return SHA-256 of everything that defines the problem (not its name), 64 hex digits."""
        payload = {key: value for key, value in self.to_dict().items() if key != "name"}
        text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    # -- JSON --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for JSON; `from_dict` is the inverse."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value = value.tolist()
            elif field.name == "outages":
                value = [outage._asdict() for outage in value]
            elif isinstance(value, tuple):
                value = list(value)
            out[field.name] = value
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Instance:
        """Build an instance from the form of `to_dict`.

        Optional fields that are missing or null take their defaults.

        Raises
        ------
        InstanceError
            If a field is unknown, a required one is missing, or a rule is broken.
        """
        if not isinstance(data, Mapping):
            raise InstanceError(f"instance: a JSON object is needed, got {type(data).__name__}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InstanceError(
                f"{unknown[0]}: unknown field; known are {', '.join(sorted(known))}"
            )
        for name in ("duration", "demand", "capacity", "agent_type"):
            if data.get(name) is None:
                raise InstanceError(f"{name}: missing")
        schema = data.get("schema", SCHEMA)
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise InstanceError(f"schema: an integer of at least 1 is needed, got {schema!r}")
        return cls(**{key: value for key, value in data.items() if value is not None})

    def write(self, path: str | Path) -> None:
        """Write JSON, compressed by gzip if the name ends in .gz."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: str | Path) -> Instance:
        """Read a JSON file; see `read_json` and `from_dict` for errors, which name the file."""
        try:
            return cls.from_dict(read_json(path))
        except InstanceError as error:
            raise InstanceError(f"{path}: {error}") from None

    # -- checks ------------------------------------------------------------------------------------

    def _check_required_arrays(self) -> tuple[int, int, int, int]:
        """Check and set the arrays without defaults; return N, T, M, R."""
        duration = self._set_array("duration", self.duration, 2)
        n, t = duration.shape
        if n == 0 or t == 0:
            raise InstanceError(
                f"duration: shape {duration.shape}, needs at least one task and one agent type"
            )
        demand = self._set_array("demand", self.demand, 3)
        capacity = self._set_array("capacity", self.capacity, 2)
        m = capacity.shape[0]
        if m == 0:
            raise InstanceError("capacity: needs at least one agent")
        self._set_array("agent_type", self.agent_type, 1)
        return n, t, m, demand.shape[2]

    def _fill_defaults(self, n: int) -> None:
        for field, default in (("release", 0), ("weight", 1), ("kind", KINDS.index("train"))):
            if getattr(self, field) is None:
                object.__setattr__(self, field, np.full(n, default, dtype=np.int64))
        if self.estimate is None:
            object.__setattr__(self, "estimate", self.duration)

    def _set_array(self, field: str, value: ArrayLike, ndim: int) -> Ints:
        """Set a field to a read-only int64 copy of `value` and return it."""
        array = integer_array(field, value, ndim)
        array.flags.writeable = False
        object.__setattr__(self, field, array)
        return array

    def _checked_names(self, r: int) -> tuple[str, ...]:
        if not isinstance(self.resources, list | tuple) or not all(
            isinstance(name, str) for name in self.resources
        ):
            raise InstanceError(f"resources: a list of names is needed, got {self.resources!r}")
        return tuple(self.resources) or tuple(f"resource{i}" for i in range(r))

    def _checked_outages(self) -> tuple[Outage, ...]:
        """Return the outages, sorted by agent and start."""
        if not isinstance(self.outages, list | tuple):
            raise InstanceError(
                f"outages: a list of (agent, start, end, announced) is needed, got {self.outages!r}"
            )
        out = [_checked_outage(i, raw, len(self.capacity)) for i, raw in enumerate(self.outages)]
        out.sort(key=lambda outage: outage[:3])
        for first, second in itertools.pairwise(out):
            if first.agent == second.agent and second.start < first.end:
                raise InstanceError(
                    f"outages: two overlap on agent {second.agent} at tick {second.start}; "
                    "merge them"
                )
        return tuple(out)

    def _check_shapes(self, n: int, m: int, t: int, r: int) -> None:
        u = 0 if self.quota is None else len(self.quota)
        expected = {
            "demand": (n, t, r),
            "capacity": (m, r),
            "agent_type": (m,),
            **dict.fromkeys(("release", "weight", "due", "tenant"), (n,)),
            "quota": (u, r),
            "kind": (n,),
            "estimate": (n, t),
        }
        for field, shape in expected.items():
            value = getattr(self, field)
            if value is not None and value.shape != shape:
                raise InstanceError(f"{field}: shape {value.shape}, expected {shape}")
        if len(self.resources) != r or len(set(self.resources)) != r:
            raise InstanceError(f"resources: {list(self.resources)} must be {r} different names")

    def _check_durations(self) -> None:
        rule = "must be at least 1, or exactly -1 (not eligible)"
        for field in ("duration", "estimate"):
            value = getattr(self, field)
            require(field, value, (value >= 1) | (value == NOT_ELIGIBLE), rule)
        same = (self.estimate == NOT_ELIGIBLE) == (self.duration == NOT_ELIGIBLE)
        require("estimate", self.estimate, same, "must be -1 exactly where duration is -1")

    def _check_tasks_and_agents(self) -> None:
        for field in ("demand", "capacity", "release", "weight", "due", "tenant", "quota"):
            value = getattr(self, field)
            if value is not None:
                require(field, value, value >= 0, "must not be negative")
        known_type = (self.agent_type >= 0) & (self.agent_type < self.n_types)
        rule = f"must be a type in [0, {self.n_types})"
        require("agent_type", self.agent_type, known_type, rule)
        known_kind = (self.kind >= 0) & (self.kind < len(KINDS))
        require("kind", self.kind, known_kind, f"must be in [0, {len(KINDS)}): {KINDS}")
        if self.quota is not None:
            if self.tenant is None:
                raise InstanceError("tenant: needed where quota is given")
            rule = f"must be in [0, {self.n_tenants}), a row of quota"
            require("tenant", self.tenant, self.tenant < self.n_tenants, rule)
        elif self.tenant is not None:
            rule = f"must be below {MAX_TENANTS}; number the tenants from 0"
            require("tenant", self.tenant, self.tenant < MAX_TENANTS, rule)

    def _check_scalars(self) -> None:
        if self.sharing not in ("time", "budget"):
            raise InstanceError(f"sharing: {self.sharing!r} must be 'time' or 'budget'")
        if self.sense not in ("min", "max"):
            raise InstanceError(f"sense: {self.sense!r} must be 'min' or 'max'")
        if not isinstance(self.offset, int) or isinstance(self.offset, bool):
            raise InstanceError(f"offset: an integer is needed, got {self.offset!r}")
        tick = self.tick_seconds
        is_number = isinstance(tick, int | float) and not isinstance(tick, bool)
        if not is_number or not tick > 0:
            raise InstanceError(f"tick_seconds: a positive number is needed, got {tick!r}")
        if not MIN_TICK_SECONDS <= tick <= MAX_INTEGER:
            raise InstanceError(
                f"tick_seconds: value {tick!r}: must lie in [{MIN_TICK_SECONDS}, {MAX_INTEGER}]; "
                "choose another unit of time"
            )

    def _check_sharing(self) -> None:
        if self.sharing == "budget":
            if self.release.any():
                raise InstanceError("release: must be 0 with `budget` sharing, which has no clock")
            if self.due is not None or self.outages:
                raise InstanceError(
                    "due, outages: must be absent with `budget` sharing, which has no clock"
                )
        elif self.sense != "min" or self.offset:
            raise InstanceError(
                "sense, offset: only `budget` sharing maps costs; `time` sharing needs 'min' and 0"
            )

    def _check_runnable(self) -> None:
        impossible = np.flatnonzero(~self.runnable().any(axis=1))
        if len(impossible):
            j = impossible[0]
            raise InstanceError(
                f"demand[{j}]: no agent can run task {j}: every type is either not eligible or has "
                "no agent (and quota) that covers the demand"
            )

    def _check_size(self) -> None:
        """Check that every tick and every objective is exact; see `bench.limits`."""
        last_outage = max((outage.end for outage in self.outages), default=0)
        last = last_tick(self.release, self.duration, self.estimate, last_outage)
        costs = self.sharing == "budget"
        check_objective(self.weight, self.duration.max(axis=1) if costs else last, self.offset)


def _checked_outage(i: int, raw: Any, n_agents: int) -> Outage:
    """Return entry i of the outages, given as a mapping or a sequence."""
    try:
        outage = Outage(**raw) if isinstance(raw, Mapping) else Outage(*raw)
    except TypeError:
        raise InstanceError(
            f"outages[{i}]: needs agent, start, end and optionally announced"
        ) from None
    numbers = integer_array(f"outages[{i}]", outage[:3], 1)
    if not isinstance(outage.announced, bool):
        raise InstanceError(
            f"outages[{i}].announced: true or false is needed, got {outage.announced!r}"
        )
    agent, start, end = (int(x) for x in numbers)
    if not 0 <= agent < n_agents:
        raise InstanceError(f"outages[{i}].agent: {agent} is outside [0, {n_agents})")
    if not 0 <= start < end:
        raise InstanceError(f"outages[{i}]: [{start}, {end}) must satisfy 0 <= start < end")
    return Outage(agent, start, end, outage.announced)


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file, compressed by gzip or plain.

    Raises
    ------
    InstanceError
        If it is no JSON or cut short, or if a key stands twice in one object.
    OSError
        If there is no such file.
    """
    raw = Path(path).read_bytes()
    try:
        return parse_json(raw)
    except ValueError as error:
        raise InstanceError(f"not readable as JSON ({error}); it may be cut short") from None


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file, compressed by gzip if the name ends in .gz.

    It is written by `bench.files.write_bytes`. The gzip time stamp is fixed, so that equal data
    gives equal files.
    """
    raw = json.dumps(data, separators=(",", ":")).encode()
    write_bytes(path, gzip.compress(raw, mtime=0) if str(path).endswith(".gz") else raw)
