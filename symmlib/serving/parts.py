"""An experiment in parts that several GPUs, or several calls, serve; and the one run that is made of them.

    CUDA_VISIBLE_DEVICES=GPU-6f3... symmlib serve --profile one-gpu-serving --part 1/2 --out A
    CUDA_VISIBLE_DEVICES=GPU-a41... symmlib serve --profile one-gpu-serving --part 2/2 --out B    # at the same time
    symmlib serve merge A B --out RUN

The arms of a block at one tensor-parallel size are compared with each other, so a part has all of them, and `merge`
takes them from one run. GPUs are named by UUID (`nvidia-smi -L`), so that each part's MPS gets its own GPU only.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from symmlib.errors import SymmlibError, UsageError
from symmlib.own_files import require_own_files
from symmlib.runs import write_json, write_text
from symmlib.serving import claim
from symmlib.serving.turns import ALL_WHOLE, NOTE, WHOLE, Turn

Pair = tuple[str, str]  # a block and a tensor-parallel size, as directories name them: ("block-1", "tp2")


@dataclass(frozen=True)
class Part:
    """The `number`-th (from 1) of `count` parts of an experiment; by default all of it."""

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> "Part":
        """From '2/4'. Raises `UsageError` for what is no part."""
        if found := re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text):
            number, count = map(int, found.groups())
            if 1 <= number <= count:
                return cls(number, count)
        raise UsageError(f"part {text!r:.40} is not one of several, such as 1/2 and 2/2.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def turns(self, turns: list[Turn]) -> list[Turn]:
        """Those of `turns` that belong to this part: every `count`-th pair of a block and a tensor-parallel size.

        More blocks change nothing about which part those before belong to. Raises `UsageError` where nothing is left
        for this part.
        """
        pairs = list(dict.fromkeys((turn.block, turn.tp) for turn in turns))
        if self.number > len(pairs):
            raise UsageError(f"there is nothing in part {self}: blocks times tensor-parallel sizes are {len(pairs)}.")
        ours = pairs[self.number - 1 :: self.count]
        return [turn for turn in turns if (turn.block, turn.tp) in ours]


ALL = Part()


@dataclass(frozen=True)
class Merged:
    """How many servers were `copied`, and how many are `there` now. `kept`: pairs of which the run has servers of its
    own, so that none were copied."""

    copied: int
    there: int
    kept: tuple[str, ...]


def merge(runs: list[Path], out: Path) -> Merged:
    """Copy into the run `out` the servers of `runs` that ran to their end and that it lacks.

    All arms of a block at one tensor-parallel size come from one run: the one that has most of them. Where `out` has
    some that are not of that run, they stay, and no others join them. Tables are not made: that is done by the
    experiment itself when it is started in `out`, as is what is still missing. Called again, it goes on.

    Raises `UsageError`, having changed nothing, where `runs` and `out` are not of the same experiment or not of the
    same environment, where a run's files lead out of it, and while `out` is being measured into; `SymmlibError` for
    a file that cannot be copied.
    """
    raw = _raw(out)
    if (raw / "imported").exists():
        raise UsageError(f"{out} holds what was imported. Choose another directory to merge into.")
    for run in runs:
        require_own_files(run)
    notes = {run: _note(run) for run in ([out] if (raw / NOTE).exists() else []) + list(runs)}
    _require_same(notes)
    with claim.alone([], raw, holder=Path(out).resolve().name):
        raw.mkdir(parents=True, exist_ok=True)
        write_json(raw / NOTE, max(notes.values(), key=lambda note: note["blocks"]))  # of several, the first: `out`'s
        tables = [_raw(run) / "routing.toml" for run in runs]
        if (table := next(filter(Path.is_file, tables), None)) and not (raw / "routing.toml").exists():
            write_text(raw / "routing.toml", table.read_text(encoding="utf-8"))
        there, found = _servers(out), {run: _servers(run) for run in runs}
        copied, kept = 0, []
        for pair in sorted({pair for servers in found.values() for pair in servers}):
            best = max(found.values(), key=lambda servers: len(servers.get(pair, {})))[pair]
            have = there.get(pair, {})
            if any(best.get(name) != turn for name, turn in have.items()):
                kept += [" ".join(pair)] if best.keys() - have.keys() else []
                continue
            for name in sorted(best.keys() - have.keys()):
                _copy(best[name].place, raw / pair[0] / name)
                copied += 1
    return Merged(copied, sum(map(len, _servers(out).values())), tuple(kept))


@dataclass(frozen=True)
class _Server:
    """One that ran to its end: where it is, and what it says of itself, by which it is told from others."""

    place: Path = field(compare=False)
    turn: str


def _servers(run: Path) -> dict[Pair, dict[str, _Server]]:
    """By pair and directory name, the servers of `run` that ran to their end."""
    found: dict[Pair, dict[str, _Server]] = {}
    for whole in sorted(_raw(run).glob(ALL_WHOLE)):
        pair = whole.parent.parent.name, whole.parent.name.partition("-")[0]
        found.setdefault(pair, {})[whole.parent.name] = _Server(whole.parent, whole.read_text(encoding="utf-8"))
    return found


def _copy(source: Path, target: Path) -> None:
    """`turn.json` last, so that what an interruption leaves counts as a server that was killed."""
    try:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(WHOLE))
        write_text(target / WHOLE, (source / WHOLE).read_text(encoding="utf-8"))
    except OSError as error:
        raise SymmlibError(f"{source} could not be copied to {target}: {error}") from None


def _require_same(notes: dict[Path, dict]) -> None:
    """Raise `UsageError` that names what differs, unless all `notes` are of one experiment and environment."""
    first, *others = notes
    for run in others:
        differ = _differing(notes[first]["identity"], notes[run]["identity"])
        if notes[run]["hash"] != notes[first]["hash"]:
            raise UsageError(
                f"{run} is not of the same experiment as {first}: not the same {', '.join(differ) or 'version'}."
            )
        if differ := _differing(notes[first]["environment"], notes[run]["environment"]):
            raise UsageError(f"{run} and {first} were served with different variables: {', '.join(differ)}.")


def _differing(one: dict, other: dict) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _note(run: Path) -> dict:
    """What the serving experiment in `run` says of itself."""
    try:
        note = json.loads((_raw(run) / NOTE).read_text(encoding="utf-8"))
        if isinstance(note["hash"], str) and isinstance(note["blocks"], int):
            return note | {name: note.get(name, {}) for name in ("identity", "environment")}  # older ones have neither
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"{run} holds no serving experiment: there is no readable {_raw(run) / NOTE}.")


def _raw(run: Path) -> Path:
    return Path(run) / "raw" / "serving"
