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
import stat
from dataclasses import dataclass
from pathlib import Path

from symmlib.errors import SymmlibError, UsageError
from symmlib.own_files import require_own_files
from symmlib.routing import RoutingTable
from symmlib.runs import write_json, write_text
from symmlib.serving import claim
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.turns import ALL_WHOLE, NOTE, WHOLE, Turn, all_turns, differing

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
    """How many servers were `copied`, and how many are `there` now. `left`: pairs of which some run has servers that
    were not copied, as a pair's come from one run. `half`: pairs of which some servers are there and not all.
    """

    copied: int
    there: int
    left: tuple[str, ...]
    half: tuple[str, ...]


def merge(runs: list[Path], out: Path) -> Merged:
    """Copy into the run `out` the servers of `runs` that ran to their end and that it lacks.

    All arms of a block at one tensor-parallel size come from one run: the one that has most of them, and all that are
    in `out` already. Tables are not made: that is done by the experiment itself when it is started in `out`, as is what
    is still missing. Called again, it goes on.

    Raises `UsageError`, having changed nothing, where `runs` and `out` are not of the same experiment or not of the
    same environment, where files cannot be read or lead out of a run, and while `out` is being measured into;
    `SymmlibError` for a file that cannot be copied.
    """
    note = _note_of_all(runs, out)
    experiment, raw = ServingExperiment.of(note), _raw(out)
    with claim.alone([], raw, holder=Path(out).resolve().name):
        before, found = _servers(experiment, out), {run: _servers(experiment, run) for run in runs}
        table = _table([out, *runs])
        write_json(raw / NOTE, note)
        if table:
            write_text(raw / "routing.toml", table)
        copied, left = 0, []
        for pair in sorted({pair for servers in found.values() for pair in servers}):
            have, offers = before.get(pair, {}), {run: servers.get(pair, {}) for run, servers in found.items()}
            run, new = _choice(have, offers)
            if any(offer.keys() - have.keys() - new for offer in offers.values()):
                left.append(" ".join(pair))
            for name in sorted(new):
                _copy(_raw(run) / pair[0] / name, raw / pair[0] / name)
                copied += 1
        now, whole = _servers(experiment, out), _pairs(all_turns(experiment, raw))
    half = tuple(" ".join(pair) for pair, servers in now.items() if len(servers) < len(whole[pair]))
    return Merged(copied, sum(map(len, now.values())), tuple(left), half)


def _note_of_all(runs: list[Path], out: Path) -> dict:
    """What the experiment of `runs` and `out` says of itself, in that with the most blocks; of several, in `out`.
    Raises `UsageError` for whatever `merge` refuses."""
    raw = _raw(out)
    if (raw / "imported").exists():
        raise UsageError(f"{out} holds what was imported. Choose another directory to merge into.")
    for run in runs:
        if _raw(run).resolve() in raw.resolve().parents:
            raise UsageError(f"{out} lies among the servers of {run}. Choose another directory to merge into.")
    for run in (*runs, out):
        require_own_files(run)
    is_begun = (raw / NOTE).exists() or any(raw.glob(ALL_WHOLE))
    notes = {run: _note(run) for run in ([out] if is_begun else []) + list(runs)}
    _require_same(notes)
    note = max(notes.values(), key=lambda note: note["blocks"])
    _require_table(out, note)
    return note


def _choice(have: dict[str, str], offers: dict[Path, dict[str, str]]) -> tuple[Path | None, set[str]]:
    """The run from which a pair is gone on with, and the names of the servers that it adds.

    `have`: the pair's servers in the run that gets them, `offers`: in each of the others. Only a run that has all that
    is there can add to it; of several, that with most. None, and no names, where no run can.
    """
    fitting = [run for run, offer in offers.items() if have.items() <= offer.items()]
    run = max(fitting, key=lambda run: len(offers[run]), default=None)
    return run, set(offers[run]) - set(have) if run else set()


def _pairs(turns: list[Turn]) -> dict[Pair, list[Turn]]:
    pairs: dict[Pair, list[Turn]] = {}
    for turn in turns:
        pairs.setdefault((turn.place.parent.name, f"tp{turn.tp}"), []).append(turn)
    return pairs


def _servers(experiment: ServingExperiment, run: Path) -> dict[Pair, dict[str, str]]:
    """The servers of `run` that ran to their end, with all that they measured: by pair and directory name, what each
    says of itself, by which it is told from others."""
    pairs = _pairs([turn for turn in all_turns(experiment, _raw(run)) if turn.is_whole(experiment)])
    return {
        pair: {turn.place.name: (turn.place / WHOLE).read_text(encoding="utf-8") for turn in turns}
        for pair, turns in pairs.items()
    }


def _require_table(out: Path, note: dict) -> None:
    """Raise `UsageError` where the run `out` has a routing table that the router did not follow."""
    own, followed = Path(out) / "routing.toml", note["identity"].get("routing table")
    if followed and own.is_file() and RoutingTable.load(own).digest != followed:
        raise UsageError(
            f"the router was not served by {own}. Serve the parts with --routing-table {own}, or merge into another "
            "directory."
        )


def _table(runs: list[Path]) -> str:
    """The routing table that the servers of `runs` followed, as text; they are of one experiment, so it is the same."""
    for run in runs:
        place = _raw(run) / "routing.toml"
        try:
            if place.exists():
                return place.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"{place} cannot be read: {error}") from None
    return ""


def _copy(source: Path, target: Path) -> None:
    """`turn.json` last, so that what an interruption leaves counts as a server that was killed."""
    try:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(WHOLE))
        for place in (target, *filter(Path.is_dir, target.rglob("*"))):
            place.chmod(place.stat().st_mode | stat.S_IRWXU)  # an archive may be read-only
        write_text(target / WHOLE, (source / WHOLE).read_text(encoding="utf-8"))
    except OSError as error:
        raise SymmlibError(f"{source} could not be copied to {target}: {error}") from None


def _require_same(notes: dict[Path, dict]) -> None:
    """Raise `UsageError` that names what differs, unless all `notes` are of one experiment and environment."""
    first, *others = notes
    for run in others:
        one, other = notes[first], notes[run]
        if one["hash"] != other["hash"]:
            differ = ", ".join(differing(one["identity"], other["identity"])) or "symmlib"
            raise UsageError(f"{run} is not of the same experiment as {first}: not the same {differ}.")
        if differ := differing(one["environment"], other["environment"]):
            told = ", ".join(
                f"{name} ({one['environment'].get(name)}, {other['environment'].get(name)})" for name in differ
            )
            raise UsageError(f"{first} and {run} were served with different variables: {told}.")


def _note(run: Path) -> dict:
    """What the serving experiment in `run` says of itself."""
    place = _raw(run) / NOTE
    try:
        match note := json.loads(place.read_text(encoding="utf-8")):
            case {"hash": str(), "blocks": int(), "identity": dict(), "environment": dict()}:
                ServingExperiment.of(note)
                return note
    except (OSError, ValueError, TypeError, RecursionError, UsageError):
        pass
    raise UsageError(f"{run} holds no serving experiment, or one of an older symmlib: see {place}.")


def _raw(run: Path) -> Path:
    return Path(run) / "raw" / "serving"
