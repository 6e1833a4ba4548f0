"""Routing tables: which backend serves which message size, read from TOML and written as canonical TOML.

A file holds several tables, each for one (device, world size, dtype, mode, multicast). Files are written by
`symmlib.routing.derive`, shipped in `tables/`, edited by people, and read by the router and by `symmlib routes show`.
A mistake in a file is a `UsageError` that names the file, the table and the key.
"""

import bisect
import hashlib
import re
import tomllib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from symmlib.backends import BACKENDS, ONE_GPU
from symmlib.errors import UsageError, unknown

SCHEMA = 1
MOST = 2**62  # what fits the integers of any reader
DTYPES = ("bfloat16", "float16", "float32")
MODES = ("eager", "graph")
BUILTIN_DIR = Path(__file__).parent / "tables"
DEFAULTS = (
    "cpu",
    "sm_90",
    "vllm-0.33.0",
)  # built-in files that make the default; others are asked for


@dataclass(frozen=True)
class Route:
    """`backend` serves messages of up to `max_bytes` (inclusive; None: of any size) that no earlier route takes.

    `crossover_bytes` is the 95 % interval of the size at which this backend stops being the fastest, where measured.
    """

    max_bytes: int | None
    backend: str
    crossover_bytes: tuple[int, int] | None = None

    def __post_init__(self):
        if self.max_bytes is not None:
            _require_count("max_bytes", self.max_bytes, least=1)
        if not isinstance(self.backend, str) or self.backend not in BACKENDS:
            raise UsageError(f"backend: {unknown('backend', self.backend, BACKENDS)}")
        if self.crossover_bytes is not None:
            if not isinstance(self.crossover_bytes, (list, tuple)) or len(self.crossover_bytes) != 2:
                raise UsageError(f"crossover_bytes: {self.crossover_bytes!r} is not a pair of sizes in bytes.")
            for bound in self.crossover_bytes:
                _require_count("crossover_bytes", bound, least=0)
            if self.crossover_bytes[0] > self.crossover_bytes[1]:
                raise UsageError(
                    f"crossover_bytes: {list(self.crossover_bytes)} runs downwards; put the lower end first."
                )
            if self.max_bytes and not self.crossover_bytes[0] <= self.max_bytes <= self.crossover_bytes[1]:
                interval = list(self.crossover_bytes)
                raise UsageError(f"crossover_bytes: {interval} does not hold max_bytes, {self.max_bytes}.")
            object.__setattr__(self, "crossover_bytes", tuple(self.crossover_bytes))


@dataclass(frozen=True)
class Table:
    """The routes of one (device, world size, dtype, mode, multicast), in ascending order of size.

    `device` is "cpu", a CUDA architecture such as "sm_100", or "sm_100/one-gpu" of ranks that shared one GPU: such a
    table is never used where each rank has its own, nor the other way round. `source` says where the bounds come from.
    `incumbent` is the backend that a derived table keeps wherever no other is shown to be more than 3 % faster.
    """

    device: str
    world_size: int
    dtype: str
    mode: str
    multicast: bool
    source: str
    routes: tuple[Route, ...]
    incumbent: str | None = None

    def __post_init__(self):
        if not isinstance(self.device, str) or not re.fullmatch(rf"cpu|sm_[1-9][0-9]{{1,3}}({ONE_GPU})?", self.device):
            raise UsageError(
                f'device: {self.device!r} is neither "cpu" nor a CUDA architecture such as "sm_100", with {ONE_GPU!r} '
                "after it where ranks shared one GPU."
            )
        _require_count("world_size", self.world_size, least=2)
        for key, valid in (("dtype", DTYPES), ("mode", MODES)):
            if getattr(self, key) not in valid:
                raise UsageError(f"{key}: {unknown(key, getattr(self, key), valid)}")
        if not isinstance(self.multicast, bool):
            raise UsageError(f"multicast: {self.multicast!r} is not true or false.")
        if not isinstance(self.source, str) or not self.source.strip():
            raise UsageError(
                f"source: {self.source!r} does not say where the bounds come from. Name a run or cite a text."
            )
        incumbent = self.incumbent
        if incumbent is not None and (not isinstance(incumbent, str) or incumbent not in BACKENDS):
            raise UsageError(f"incumbent: {unknown('backend', str(incumbent), BACKENDS)}")
        object.__setattr__(self, "routes", tuple(self.routes))
        _require_ascending(self.routes)

    @property
    def key(self) -> tuple[str, int, str, str, bool]:
        """What the table is for: (device, world_size, dtype, mode, multicast). No two tables of a file share it."""
        return self.device, self.world_size, self.dtype, self.mode, self.multicast

    @cached_property
    def _bounds(self) -> list[int]:
        return [route.max_bytes for route in self.routes[:-1]]

    def lookup(self, nbytes: int) -> Route:
        """The route that serves a message of `nbytes` bytes per rank."""
        return self.routes[bisect.bisect_left(self._bounds, nbytes)]


@dataclass(frozen=True)
class RoutingTable:
    """All tables of a file, at most one for each key."""

    tables: tuple[Table, ...]

    def __post_init__(self):
        object.__setattr__(self, "tables", tuple(self.tables))
        seen: dict[tuple, int] = {}
        for number, table in enumerate(self.tables, start=1):
            if table.key in seen:
                raise UsageError(
                    f"table {number} ({_describe(table.key)}) repeats table {seen[table.key]}. Remove one of them."
                )
            seen[table.key] = number

    @classmethod
    def load(cls, path: str | Path) -> "RoutingTable":
        """Read a file; raises `UsageError` naming the file, the table and the key for anything that does not fit."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the routing table {path}: {error}") from error
        return cls.loads(text, name=str(path))

    @classmethod
    def loads(cls, text: str, *, name: str = "routing table") -> "RoutingTable":
        """Read TOML text; `name` stands for the file in error messages."""
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            raise UsageError(f"{name}: not valid TOML: {error}") from error
        try:
            _require_keys(document, required={"schema", "table"}, optional=set())
            if type(document["schema"]) is not int or document["schema"] != SCHEMA:
                raise UsageError(f"schema: {document['schema']!r} is not {SCHEMA}, the only one this version reads.")
            return cls(tuple(_parse_table(number, raw) for number, raw in _numbered("table", document["table"])))
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error

    @classmethod
    def builtin(cls, name: str | None = None) -> "RoutingTable":
        """The tables shipped as `tables/<name>.toml`; without a name, the defaults for every device."""
        if name is None:
            return cls(tuple(table for file in DEFAULTS for table in cls.builtin(file).tables))
        if name not in cls.builtin_names():
            raise unknown("built-in routing table", name, cls.builtin_names())
        return cls.load(BUILTIN_DIR / f"{name}.toml")

    @staticmethod
    def builtin_names() -> list[str]:
        """Names that `builtin` takes."""
        return sorted(path.stem for path in BUILTIN_DIR.glob("*.toml"))

    def find(self, *, device: str, world_size: int, dtype: str, mode: str, multicast: bool) -> Table | None:
        """The table for exactly this key, or None."""
        wanted = (device, world_size, dtype, mode, multicast)
        return next((table for table in self.tables if table.key == wanted), None)

    def why_none(self, *, device: str, world_size: int, dtype: str, mode: str, multicast: bool) -> str:
        """Why `find` has no table for this key, and what to do where tables of the same GPUs do not hold."""
        reason = f"no table for {_describe((device, world_size, dtype, mode, multicast))}"
        measured = {table.device for table in self.tables}
        alone = device.removesuffix(ONE_GPU)
        shared = alone + ONE_GPU
        if device == alone and device not in measured and shared in measured:
            reason += (
                f": the file's tables are of ranks that share one GPU ({shared}), where HBM stood in for NVLink; "
                "derive one here with symmlib routes derive"
            )
        elif device == shared and device not in measured and alone in measured:
            reason += (
                f": the file's tables are of ranks with a GPU each ({alone}), and here ranks share one, whose HBM "
                "stands in for NVLink; derive one here with symmlib routes derive"
            )
        return reason

    def dumps(self) -> str:
        """Canonical TOML: tables in order of their keys, one spelling for every value. Equal tables, equal bytes."""
        blocks = [f"schema = {SCHEMA}\n"]
        for table in sorted(self.tables, key=lambda table: table.key):
            lines = ["[[table]]"]
            lines += _keys(table)
            for route in table.routes:
                lines += ["", "[[table.route]]", *_keys(route)]
            blocks.append("\n".join(lines) + "\n")
        return "\n".join(blocks)

    def save(self, path: str | Path) -> None:
        """Write the canonical text to `path`, whole or not at all."""
        from symmlib.runs import write_text

        write_text(Path(path), self.dumps())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text: ranks compare it to be sure that they hold the same tables."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()


def _keys(part: "Table | Route") -> list[str]:
    """The lines of a section: its keys that hold something, but for the routes, which are sections of their own."""
    values = {key.name: getattr(part, key.name) for key in fields(part) if key.name != "routes"}
    return [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]


def _parse_table(number: int, raw: object) -> Table:
    place = f"table {number}"
    try:
        names = {key.name for key in fields(Table)} - {"routes", "incumbent"}
        raw = _require_keys(raw, required=names | {"route"}, optional={"incumbent"})
        place += f" ({_describe(tuple(raw[key] for key in ('device', 'world_size', 'dtype', 'mode', 'multicast')))})"
        routes = tuple(_parse_route(n, route) for n, route in _numbered("route", raw["route"]))
        return Table(**{name: raw[name] for name in names}, routes=routes, incumbent=raw.get("incumbent"))
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error


def _parse_route(number: int, raw: object) -> Route:
    try:
        raw = _require_keys(raw, required={"backend"}, optional={"max_bytes", "crossover_bytes"})
        return Route(raw.get("max_bytes"), raw["backend"], raw.get("crossover_bytes"))
    except UsageError as error:
        raise UsageError(f"route {number}: {error}") from error


def _numbered(key: str, raw: object) -> list[tuple[int, object]]:
    if not isinstance(raw, list) or not raw:
        raise UsageError(f"{key}: {raw!r} is not a list of [[{key}]] sections.")
    return list(enumerate(raw, start=1))


def _require_keys(raw: object, *, required: set[str], optional: set[str]) -> dict:
    if not isinstance(raw, dict):
        raise UsageError(f"{raw!r} is not a section of keys.")
    for key in raw:
        if key not in required | optional:
            raise unknown("key", key, required | optional)
    missing = sorted(required - raw.keys())
    if missing:
        raise UsageError(f"{missing[0]}: this key is missing.")
    return raw


def _require_count(key: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise UsageError(f"{key}: {value!r:.40} is not a whole number of at least {least} and at most 2^62.")


def _require_ascending(routes: tuple[Route, ...]) -> None:
    if not routes:
        raise UsageError("route: a table needs at least one [[table.route]].")
    if routes[-1].max_bytes is not None:
        raise UsageError(
            f"route {len(routes)}: max_bytes: the last route has none, since it serves every larger size; "
            f"remove {routes[-1].max_bytes} or add a route after it."
        )
    previous = 0
    for number, route in enumerate(routes[:-1], start=1):
        if route.max_bytes is None:
            raise UsageError(f"route {number}: max_bytes: this key is missing; only the last route has none.")
        if route.max_bytes <= previous:
            raise UsageError(
                f"route {number}: max_bytes: {route.max_bytes} does not exceed {previous} of the route before; "
                "order routes by size."
            )
        previous = route.max_bytes


def _describe(key: tuple) -> str:
    device, world_size, dtype, mode, multicast = key
    return f"{device}, world size {world_size}, {dtype}, {mode}, multicast {str(multicast).lower()}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'
