"""One server configuration of an experiment: which all-reduce serves it, and by what that is proven.

Most arms are an all-reduce's name: `gloo`, `vllm/shm`, `router`, any backend, or `vllm-default`. A mapping says more:

    name: symmetric memory on        what tables and figures call it; by default its all_reduce
    all_reduce: vllm-default         what serves it
    environment: {VLLM_ALLREDUCE_USE_SYMM_MEM: "1"}
    server_args: ["--max-num-seqs", "64"]
    must_use: [SYMM_MEM]             names that vLLM's log must give among its all-reduce backends for the group tp:0
    must_not_use: [CUSTOM]           ... and those that it must not
    blocks: 1                        it takes part in so many blocks, the first ones; by default in all

What symmlib's plug-in serves (all but `vllm-default`) is proven by its trace, the rest by vLLM's log.
"""

import re
from dataclasses import asdict, dataclass

from symmlib.errors import UsageError, unknown
from symmlib.provenance import secret_in
from symmlib.serving.claim import MARK
from symmlib.vllm_plugin import CHOICES, ROUTER

VLLM_DEFAULT = "vllm-default"  # vLLM's own choice of all-reduce: the plug-in is not switched on
ALL_REDUCES = (VLLM_DEFAULT, *CHOICES)
OURS = ("--host", "--port", "--tensor-parallel-size", "-tp", "--max-model-len", "--model", "--load-format")
# What would open a server to other machines, or to web pages from anywhere; a --config file could say any of it.
EXPOSING = ("--allowed-origins", "--allow-credentials", "--uds", "--config")
# ... and what would let its ranks listen on other interfaces than the loopback one.
EXPOSING_VARIABLES = ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "VLLM_API_KEY")
OUR_VARIABLES = ("SYMMLIB_ALLREDUCE", "SYMMLIB_ROUTING_TABLE", "SYMMLIB_TRACE", "SYMMLIB_ONE_GPU", MARK)


@dataclass(frozen=True)
class Arm:
    """See the file's head. `environment` is kept as pairs, sorted. Raises `UsageError` for what it cannot mean."""

    name: str
    all_reduce: str
    environment: tuple[tuple[str, str], ...] = ()
    server_args: tuple[str, ...] = ()
    must_use: tuple[str, ...] = ()
    must_not_use: tuple[str, ...] = ()
    blocks: int = 0

    @classmethod
    def of(cls, given) -> "Arm":
        """From an all-reduce's name, a mapping, or an arm."""
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            return cls(given, _all_reduce(given))
        if not isinstance(given, dict):
            raise UsageError(f"the arm {given!r:.60} is neither a name nor a mapping.")
        known = cls.__dataclass_fields__
        for key in given:
            if key not in known:
                raise unknown("key of an arm", str(key), known)
        if "all_reduce" not in given:
            raise UsageError(f"the arm {given.get('name', given)!r:.60} does not say its all_reduce, such as 'router'.")
        fields = {key: _texts(key, given.get(key, ())) for key in ("server_args", "must_use", "must_not_use")}
        require_server_args(fields["server_args"])
        name = given.get("name", given["all_reduce"])
        require_name(name)
        blocks = given.get("blocks", 0)
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 0:
            raise UsageError(
                f"blocks of the arm {name!r} is {blocks!r:.20}, not a whole number: 1 or more, or 0 for all."
            )
        environment = _environment(given.get("environment", {}))
        arm = cls(name, _all_reduce(given["all_reduce"]), environment, **fields, blocks=blocks)
        if arm.is_plugged and (arm.must_use or arm.must_not_use):
            raise UsageError(
                f"the arm {name!r} is served by symmlib's plug-in, whose trace proves what served: must_use and "
                f"must_not_use are for arms with all_reduce {VLLM_DEFAULT!r}."
            )
        return arm

    @property
    def is_plugged(self) -> bool:
        """Whether symmlib's plug-in serves it, and leaves a trace."""
        return self.all_reduce != VLLM_DEFAULT

    @property
    def is_routed(self) -> bool:
        """Whether a routing table says what serves it."""
        return self.all_reduce == ROUTER

    def as_dict(self) -> dict:
        """Plain data, as `of` takes it."""
        return asdict(self) | {"environment": dict(self.environment)}


def require_name(name) -> None:
    """Raise `UsageError` for what cannot name an arm: it becomes part of a directory's name, and an entry of tables."""
    if not isinstance(name, str) or not name.strip() or len(name) > 60 or not name.isprintable():
        raise UsageError(f"an arm's name must be a short text, not {name!r:.80}.")
    if name.lstrip()[0] in "=+-@":
        raise UsageError(
            f"an arm's name must not begin with {name.lstrip()[0]}: spreadsheets take {name!r} for a formula."
        )


def require_server_args(arguments: tuple[str, ...]) -> None:
    """Raise `UsageError` for arguments of `vllm serve` that are the experiment's to set, or that hold a secret."""
    for argument in arguments:
        name = argument.split("=")[0]
        spelled = name.replace("_", "-")  # vLLM takes either spelling, and any beginning that fits no other option
        if any(option == spelled or len(spelled) > 3 and option.startswith(spelled) for option in OURS + EXPOSING):
            raise UsageError(f"server_args must not set {name}: the experiment does.")
        if re.fullmatch(r"-tp\d+", name):
            raise UsageError(f"server_args must not set {name}: the experiment does.")
    if secret := secret_in(arguments):
        raise UsageError(
            f"server_args must not set {secret}: they are kept in the run's files. Set an environment variable "
            "instead (HF_TOKEN); an API key is not needed, each server gets one that nobody else knows."
        )


def _all_reduce(name) -> str:
    if name not in ALL_REDUCES:
        raise unknown("arm", str(name), ALL_REDUCES)
    return name


def _environment(given) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, dict):
        raise UsageError(f"an arm's environment maps names to texts; it is {given!r:.60}.")
    for name, value in given.items():
        plain = isinstance(name, str) and isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", name)
        if not plain or "\0" in value:
            raise UsageError(f"an arm's environment maps names to texts; it has {name!r:.40}: {value!r:.40}. Quote it.")
        if name in OUR_VARIABLES:
            raise UsageError(f"an arm's environment must not set {name}: its all_reduce says what serves.")
        if name in EXPOSING_VARIABLES:
            raise UsageError(
                f"an arm's environment must not set {name}: servers are kept to this machine and its user."
            )
        if secret_in([f"--{name}={value}"]):
            raise UsageError(f"an arm's environment must not hold a secret, such as {name}: set it outside instead.")
    return tuple(sorted(given.items()))


def _texts(key: str, given) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, list | tuple):
        raise UsageError(f"{key} {given!r:.60} is not a list.")
    for item in given:
        if not isinstance(item, str):
            raise UsageError(f"{key} holds {item!r:.60}, which is no text: quote it.")
    return tuple(given)
