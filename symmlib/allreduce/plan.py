"""What one measurement is to do; checked when it is made, so that a mistake costs seconds and no launch."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

from symmlib.backends import BACKENDS, runs_on_cpu
from symmlib.errors import UsageError, unknown
from symmlib.sizes import format_size, parse_sizes

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
ROUTER = "router"  # measured among the backends where the plan names a routing table
MODES = ("eager", "graph")
DEVICES = ("cpu", "cuda")
BUDGET_S = {"cpu": 0.25, "cuda": 0.05}  # where none is given; on a GPU one sample is the mean of many operations
ROUNDS = {"cpu": 40, "cuda": 5}  # many short ones on a CPU, whose caches change their ways every few milliseconds
ITERATIONS = {"cpu": 25, "cuda": 100}
MAX_WORLD_SIZE = 8  # ranks of one host: the host kernels and the GPU nodes that symmlib is for both end there
MAX_BYTES = 1 << 30  # a check holds about twenty copies of the message in every rank


@dataclass(frozen=True)
class AllReducePlan:
    """World size, backends and sizes to measure, and how often. Raises `UsageError` for anything it cannot mean.

    `backends` and `sizes` may be given as on the command line ("gloo,host/one_shot", "1KiB:16MiB:x4") or as lists;
    they are kept as tuples, sizes in bytes per rank. `world_size` is one number or several; each is measured in turn,
    by the plan that `each` makes for it. Only such plans, of one world size, reach launches, ranks and checks.

    A launch is one fresh torchrun. In a launch each size has `rounds` rounds; a round runs every backend once, in
    random order, for up to `iterations` iterations. `budget_s` bounds the time spent on one backend at one size in one
    launch (warm-up and checks not counted), so that slow backends get fewer iterations. `seed` fixes orders and inputs.
    `device` is where messages live: where not given, "cpu" if any of the backends runs there, else "cuda".

    On a CPU an iteration is one all-reduce. On GPUs it is one replay of a CUDA graph of several all-reduces (in mode
    "eager" as many calls), and its sample is the mean over that replay: one alone is too short for a GPU's clock.
    `one_gpu`: all ranks run on the first GPU, under NVIDIA MPS; its memory stands in for NVLink, so such times hold for
    no node. `beside_a_model`, with it: our kernels hold no more of the GPU than where ranks also compute a model on it
    (`gpu.Gpu`), as those do that are to be routed in vLLM.

    `refine_s`: seconds that may be spent, after that and for each world size, on sizes around bounds that are not known
    within half an octave.
    `routing_table`: the file by which the name `router` among the backends is served. `misaligned`: messages start one
    element into their allocation.
    """

    world_size: int | tuple[int, ...]
    backends: tuple[str, ...]
    sizes: tuple[int, ...]
    dtype: str = "bfloat16"
    mode: str = "eager"
    launches: int = 3
    rounds: int | None = None
    iterations: int | None = None
    budget_s: float | None = None
    seed: int = 0
    device: str = ""
    refine_s: float = 0
    routing_table: str = ""
    misaligned: bool = False
    one_gpu: bool = False
    beside_a_model: bool = False

    def __post_init__(self):
        known = [*BACKENDS, ROUTER] if self.routing_table else [*BACKENDS]
        object.__setattr__(self, "backends", _backends(self.backends, known))
        if self.device == "":
            object.__setattr__(self, "device", "cpu" if any(map(runs_on_cpu, self.backends)) else "cuda")
        for key, valid in (("dtype", ITEMSIZE), ("mode", MODES), ("device", DEVICES)):
            if getattr(self, key) not in valid:
                raise unknown(key, getattr(self, key), valid)
        if self.mode == "graph" and self.device == "cpu":
            raise UsageError("mode 'graph' means CUDA graphs, which need a GPU; on device 'cpu' choose mode 'eager'.")
        for key in ("one_gpu", "beside_a_model"):
            if not isinstance(getattr(self, key), bool):
                raise UsageError(f"{key} {getattr(self, key)!r} is neither true nor false.")
        if self.beside_a_model and not self.one_gpu:
            raise UsageError("beside_a_model changes nothing where each rank has its own GPU. Give one_gpu as well.")
        if self.one_gpu and self.device == "cpu":
            on_cpu = ", ".join(filter(runs_on_cpu, self.backends)) or "device 'cpu'"
            raise UsageError(
                f"one_gpu puts all ranks on a GPU, but the host's memory is where {on_cpu} works. Leave one_gpu out, "
                "or name GPU backends only, such as symm_mem/one_shot,triton/one_shot."
            )
        if isinstance(self.world_size, list | tuple):
            object.__setattr__(self, "world_size", tuple(self.world_size))
        for world_size in self.world_sizes:
            _require_count("world_size", world_size, 2)
            if world_size > MAX_WORLD_SIZE:
                raise UsageError(f"world_size {world_size} is more than {MAX_WORLD_SIZE}, the most one host serves.")
            if self.world_sizes.count(world_size) > 1:
                raise UsageError(f"world_size {world_size} is named twice.")
        if not self.world_sizes:
            raise UsageError("no world_size to measure. Name one, such as 2, or some, such as [2, 4, 8].")
        for key, defaults in (("rounds", ROUNDS), ("iterations", ITERATIONS), ("budget_s", BUDGET_S)):
            if getattr(self, key) is None:
                object.__setattr__(self, key, defaults[self.device])
        for key, least in (("launches", 1), ("rounds", 1), ("iterations", 1), ("seed", 0)):
            _require_count(key, getattr(self, key), least)
        if isinstance(self.budget_s, bool) or not isinstance(self.budget_s, (int, float)) or not self.budget_s > 0:
            raise UsageError(f"budget_s {self.budget_s!r} is not a positive number of seconds.")
        if isinstance(self.refine_s, bool) or not isinstance(self.refine_s, (int, float)) or not self.refine_s >= 0:
            raise UsageError(f"refine_s {self.refine_s!r} is not a number of seconds; 0 measures the sizes given only.")
        object.__setattr__(self, "sizes", tuple(parse_sizes(self.sizes)))
        for size in self.sizes:
            if size % ITEMSIZE[self.dtype]:
                raise UsageError(
                    f"{size} bytes are no whole number of {self.dtype} elements; "
                    f"choose a multiple of {ITEMSIZE[self.dtype]}."
                )
            if size > MAX_BYTES:
                raise UsageError(
                    f"{format_size(size)} is more than {format_size(MAX_BYTES)}, the largest that fits a check."
                )

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """All of them, in the order in which they are measured."""
        return self.world_size if isinstance(self.world_size, tuple) else (self.world_size,)

    def each(self) -> Iterator["AllReducePlan"]:
        """This plan for each of its world sizes alone, in their order."""
        return (dataclasses.replace(self, world_size=world_size) for world_size in self.world_sizes)

    def dumps(self) -> str:
        """JSON, for the ranks and for the run's record."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def loads(cls, text: str) -> "AllReducePlan":
        """The plan that `dumps` wrote."""
        return cls(**json.loads(text))


def _require_count(key: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{key} {value!r} is not a whole number of at least {least}.")


def _backends(given: str | list | tuple, known: list[str]) -> tuple[str, ...]:
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    if not names:
        raise UsageError("no backends to measure. Name some, such as gloo,host/one_shot.")
    for name in names:
        if name not in known:
            raise unknown("backend", name, known)
        if names.count(name) > 1:
            raise UsageError(f"backend {name!r} is named twice.")
    return tuple(names)
