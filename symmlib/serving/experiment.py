"""What one serving experiment is to do; checked when it is made, so that a mistake costs no server start.

Its fields are the parameters of the notebook 04_serving.
"""

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass

from symmlib.analysis.serving import MAX_BLOCKS, TIERS
from symmlib.errors import UsageError, unknown
from symmlib.serving.arms import Arm, require_server_args

MAX_TP = 8  # ranks of one host
MAX_QPS = 1e5
MAX_SECONDS = 7 * 86_400
MAX_TOKENS = 1 << 30
MAX_SEED = (1 << 32) // 1000 - 1  # `block_seed` of it still fits numpy's 32 bits
WARMUP_SEED = 7_919  # far from every block's seed, so that no measured prompt is met during warm-up


@dataclass(frozen=True)
class ServingExperiment:
    """Arms, loads and repetitions. Raises `UsageError` for anything it cannot mean.

    `model`: 'tiny', 'dummy-8b' or 'dummy-70b' (Llamas with random weights, made on the spot), a directory with a
    config.json, or a hub id.
    `tp`: tensor-parallel sizes; `qps`: request rates, open loop, each for `duration_s` seconds. A (tp, qps) is a cell.
    `input_len` (of which the first `prefix_len` are shared by all requests), `output_len`: tokens per request.
    `sonnet_path`: the file sonnet.txt of vLLM's repository, for a vLLM that still has that dataset; else, or without
    it, prompts of the same lengths are made of random tokens.
    `blocks`: repetitions, in each of which every arm meets the same schedule; `tier` names how far they carry.
    `arms`: all-reduces by name (`router`, `vllm-default` or a backend's), or mappings that say more: see `arms.Arm`.
    Each other arm is compared with `baseline`, and `treatment`, the arm in question, with all others.
    `server_args`: further arguments of `vllm serve`, for all arms. `port`: 0 chooses a free one. `ready_timeout_s`: the
    longest that a server may take to start. `seed` fixes prompts, arrival times and the order of arms.
    `one_gpu`: all ranks share one GPU (docs/one-gpu.md).
    """

    model: str = "tiny"
    tp: tuple[int, ...] = (2,)
    qps: tuple[float, ...] = (4, 8)
    duration_s: float = 8
    input_len: int = 128
    output_len: int = 32
    prefix_len: int = 0
    sonnet_path: str = ""
    blocks: int = 3
    tier: str = "quick"
    arms: tuple[Arm, ...] = ("gloo", "vllm/shm", "router")
    baseline: str = "gloo"
    treatment: str = "router"
    max_model_len: int = 2048
    server_args: tuple[str, ...] = ()
    port: int = 0
    ready_timeout_s: float = 300
    seed: int = 0
    one_gpu: bool = False

    def __post_init__(self):
        for name in ("tp", "qps", "arms", "server_args"):
            object.__setattr__(self, name, _tuple(name, getattr(self, name)))
        object.__setattr__(self, "arms", tuple(Arm.of(arm) for arm in self.arms))
        least = {
            "input_len": 1,
            "output_len": 2,
            "max_model_len": 1,
            "blocks": 1,
            "prefix_len": 0,
            "port": 0,
            "seed": 0,
        }
        for name in least:
            _whole(name, getattr(self, name), least[name])
        for size in self.tp:
            _whole("tp", size, 2)
        limits = {"tp": MAX_TP, "blocks": MAX_BLOCKS, "port": 65535, "max_model_len": MAX_TOKENS, "seed": MAX_SEED}
        for name, most in limits.items():
            value = max(self.tp) if name == "tp" else getattr(self, name)
            if value > most:
                raise UsageError(f"{name} {_short(value)} is more than {most}, the most there can be.")
        for name in ("duration_s", "ready_timeout_s"):
            _positive(name, getattr(self, name), MAX_SECONDS)
        for rate in self.qps:
            _positive("qps", rate, MAX_QPS)
            if self.requests(rate) < 2:
                raise UsageError(f"{rate:g} requests/s for {self.duration_s:g} s are fewer than 2. Measure longer.")
        if len({f"{rate:g}" for rate in self.qps}) < len(self.qps):
            raise UsageError(f"qps {list(self.qps)} are too close to be told apart in six digits.")
        if not isinstance(self.one_gpu, bool):
            raise UsageError(f"one_gpu {self.one_gpu!r} is neither true nor false.")
        self._check_arms()
        if self.tier not in TIERS:
            raise unknown("tier", self.tier, TIERS)
        if self.blocks < TIERS[self.tier]:
            raise UsageError(
                f"tier {self.tier!r} needs at least {TIERS[self.tier]} blocks, not {self.blocks}. "
                "Take more blocks, or tier 'smoke', which gives no verdict."
            )
        for argument in self.server_args:
            if not isinstance(argument, str):
                raise UsageError(f"server_args holds {argument!r}, which is no text: quote it.")
        require_server_args(self.server_args)
        needed = self.input_len + self.output_len
        if self.prefix_len >= self.input_len:
            raise UsageError(f"prefix_len {self.prefix_len} must be less than input_len {self.input_len}, its whole.")
        if needed > self.max_model_len:
            raise UsageError(
                f"max_model_len {self.max_model_len} is too short for {self.input_len} tokens in and "
                f"{self.output_len} out: set at least {needed}."
            )

    def _check_arms(self) -> None:
        names, places = self.arm_names, [place_of(arm.name) for arm in self.arms]
        for name, place in zip(names, places, strict=True):
            if names.count(name) > 1:
                raise UsageError(f"arms names {name!r} twice.")
            if places.count(place) > 1:
                raise UsageError(f"the arm {name!r} would share its directory {place!r} with another: rename one.")
        for name in ("baseline", "treatment"):
            if getattr(self, name) not in names:
                raise UsageError(f"{name} {getattr(self, name)!r} is not among the arms {', '.join(names)}.")
        for arm in self.arms:
            if arm.blocks and arm.name in (self.baseline, self.treatment):
                raise UsageError(f"the arm {arm.name!r} has blocks {arm.blocks}: baseline and treatment are in all.")
        if self.baseline == self.treatment:
            raise UsageError(f"baseline and treatment are both {self.baseline!r}: compare two different arms.")

    @classmethod
    def of(cls, parameters: Mapping) -> "ServingExperiment":
        """From a mapping that holds its fields among others, such as a notebook's `globals()`."""
        fields = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in parameters.items() if name in fields})

    @property
    def arm_names(self) -> tuple[str, ...]:
        """What tables and figures call the arms."""
        return tuple(arm.name for arm in self.arms)

    @property
    def is_a_a(self) -> bool:
        """Whether its arms differ in nothing but their names."""
        return len({dataclasses.replace(arm, name="", blocks=0) for arm in self.arms}) == 1

    def is_partial(self, arm: Arm) -> bool:
        """Whether `arm` says in how many blocks it is; it runs when all others have."""
        return arm.blocks > 0

    def again(self) -> list[Arm]:
        """The arms that are the baseline once more, under other names."""
        baseline, *others = sorted(self.arms, key=lambda arm: arm.name != self.baseline)
        return [arm for arm in others if dataclasses.replace(arm, name=baseline.name, blocks=0) == baseline]

    def a_a(self, name: str) -> "ServingExperiment":
        """The same with the arm `name` twice: what two equal arms show is noise, and bounds what counts as a change."""
        if name not in self.arm_names:
            raise unknown("arm of this experiment", name, self.arm_names)
        arm = self.arms[self.arm_names.index(name)]
        again = dataclasses.replace(arm, name=f"{arm.name[:50]} again")
        return dataclasses.replace(self, arms=(arm, again), baseline=arm.name, treatment=again.name)

    def requests(self, qps: float) -> int:
        """How many requests are sent at the rate `qps` in one block."""
        return round(qps * self.duration_s)

    def pairs(self) -> list[tuple[str, str]]:
        """(baseline, treatment) of every comparison: `baseline` with each arm, then the rest with `treatment`."""
        others = [name for name in self.arm_names if name != self.baseline]
        return [(self.baseline, arm) for arm in others] + [
            (arm, self.treatment) for arm in others if arm != self.treatment
        ]

    def block_seed(self, block: int) -> int:
        """The seed of prompts and arrival times in `block` (from 1): the same for all arms, another in each block."""
        return self.seed * 1000 + block

    def orders(self) -> list[tuple[Arm, ...]]:
        """The arms' order in each block: random by `seed`, and balanced.

        Over as many blocks as there are arms in all blocks each of these comes first, second, ... once (a Latin square
        with shuffled rows and names), so that a machine that drifts within a block favours nobody. An arm with
        `blocks` of its own is the last in the first ones. More blocks change nothing about those before.
        """
        chance = random.Random(self.seed)
        always = [arm for arm in self.arms if not self.is_partial(arm)]
        orders: list[tuple[Arm, ...]] = []
        while len(orders) < self.blocks:
            arms = chance.sample(always, len(always))
            square = [tuple(arms[shift:] + arms[:shift]) for shift in range(len(arms))]
            orders += chance.sample(square, len(square))
        return [
            order + tuple(arm for arm in self.arms if self.is_partial(arm) and block <= arm.blocks)
            for block, order in enumerate(orders[: self.blocks], 1)
        ]

    def as_dict(self) -> dict:
        """Plain data, for the run's record."""
        return dataclasses.asdict(self) | {"arms": [arm.as_dict() for arm in self.arms]}


def place_of(name: str) -> str:
    """An arm's name as part of a directory's."""
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)


def _tuple(name: str, value) -> tuple:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise UsageError(f"{name} {value!r} is not a list.")
    if name != "server_args":
        if not value:
            raise UsageError(f"{name} is empty: name at least one.")
        for item in value:
            if list(value).count(item) > 1:
                raise UsageError(f"{name} names {item!r} twice.")
    return tuple(value)


def _whole(name: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} {value!r} is not a whole number of at least {least}.")


def _positive(name: str, value, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise UsageError(f"{name} {value!r} is not a positive number.")
    if value > most:
        raise UsageError(f"{name} {_short(value)} is more than {most:g}, the most there can be.")


def _short(number: int | float) -> str:
    return f"{number:.10g}" if abs(number) < 1e300 else "of hundreds of digits"
