"""The servers of an experiment, one after the other: which are to run, and which have run to their end already.

A turn is one arm in one block. Its directory, below raw/serving/, holds everything that its server and its client left,
and `turn.json` as soon as that is whole: this is what makes an experiment resumable.
"""

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from symmlib.analysis.serving import MAX_BLOCKS
from symmlib.errors import SymmlibError, UsageError
from symmlib.progress import say
from symmlib.runs import write_json
from symmlib.serving.arms import Arm
from symmlib.serving.experiment import ServingExperiment, place_of
from symmlib.serving.gates import Measurement

WHOLE = "turn.json"
ALL_WHOLE = f"block-*/tp*-*/{WHOLE}"  # below raw/serving/
NOTE = "experiment.json"


@dataclass(frozen=True)
class Turn:
    """One server to run: an arm in a block. `place` is its directory."""

    block: int
    tp: int
    arm: Arm
    place: Path

    @property
    def trace(self) -> Path:
        return self.place / "trace"

    @property
    def greedy(self) -> Path:
        """The greedy answers that were asked for, in block 1."""
        return self.place / "greedy.json"

    @property
    def ready_s(self) -> float:
        """How long its server took to start, of a turn that is whole; 0 where nobody wrote that down."""
        return json.loads((self.place / WHOLE).read_text(encoding="utf-8")).get("ready_s", 0)

    def is_whole(self, experiment: ServingExperiment) -> bool:
        """Whether it ran to its end, and what it measured is there."""
        try:
            said = json.loads((self.place / WHOLE).read_text(encoding="utf-8"))
            self.require_whole(experiment)
            return (said["block"], said["tp"], said["arm"]) == (self.block, self.tp, self.arm.name)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SymmlibError):
            return False

    def require_whole(self, experiment: ServingExperiment) -> None:
        """Raise `SymmlibError` that names the first file of what was measured that is not there, or is no JSON."""
        for one in self.measurements(experiment):
            for path in (one.path, one.schedule_path):
                try:
                    json.loads(path.read_text(encoding="utf-8"))
                except (OSError, ValueError, RecursionError) as error:  # a tool, or a full disk, may leave half of one
                    raise SymmlibError(f"`vllm bench serve` left no whole {path}: {error}") from None

    def finish(self, **facts) -> None:
        """Record that all of it is there."""
        write_json(self.place / WHOLE, {"block": self.block, "tp": self.tp, "arm": self.arm.name, **facts})

    def measurements(self, experiment: ServingExperiment) -> list[Measurement]:
        """One a rate."""
        return [
            Measurement(self.block, self.arm, self.tp, qps, self.place / f"{rate_name(qps)}.json", self.trace)
            for qps in experiment.qps
        ]


def all_turns(experiment: ServingExperiment, raw: Path) -> list[Turn]:
    """In the order in which they run: block after block, then the arms that are in some blocks only.

    These come last so that, when time is short, what is to be compared is whole first.
    """
    turns = [
        Turn(block, tp, arm, raw / f"block-{block}" / f"tp{tp}-{place_of(arm.name)}")
        for block, order in enumerate(experiment.orders(), 1)
        for tp in experiment.tp
        for arm in order
    ]
    return sorted(turns, key=lambda turn: experiment.is_partial(turn.arm))


def require_all_blocks(experiment: ServingExperiment, raw: Path) -> None:
    """Raise `UsageError` if more blocks have run, at any tensor-parallel size, than `experiment` has: none is left out
    of what was seen already."""
    arms = [place_of(arm) for arm in (experiment.baseline, experiment.treatment)]

    def has_run(block: int) -> bool:
        places = ([raw / f"block-{block}" / f"tp{tp}-{arm}" / WHOLE for arm in arms] for tp in experiment.tp)
        return any(all(place.is_file() for place in one) for one in places)

    if ran := next(filter(has_run, range(MAX_BLOCKS, experiment.blocks, -1)), None):
        raise UsageError(
            f"{ran} blocks have run in {raw.parent.parent}, and none is taken away: ask for {ran} or more "
            f"(--blocks {ran}) instead of {experiment.blocks}, or for another directory."
        )


def is_same(raw: Path, note: dict) -> bool:
    """Whether what is in `raw` was measured by the experiment of `note`."""
    try:
        return json.loads((raw / NOTE).read_text(encoding="utf-8")).get("hash") == note["hash"]
    except (OSError, ValueError, AttributeError):
        return False


def require_same_environment(raw: Path, note: dict) -> None:
    """Raise `UsageError` if the servers in `raw` inherited other environment variables than `note` names: all arms of
    an experiment are to be served alike. Notes of earlier versions name none."""
    try:
        kept = json.loads((raw / NOTE).read_text(encoding="utf-8"))["environment"]
        names = differing(kept, note["environment"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if names and any(raw.glob(ALL_WHOLE)):
        told = ", ".join(f"{name}={kept[name]}" if name in kept else f"{name} not set" for name in names)
        raise UsageError(
            f"{raw.parent.parent} was served with other environment variables: {told}. Set them so, or choose another "
            "directory."
        )


def differing(one: dict, other: dict) -> list[str]:
    """The keys that only one of both has, or that they have with different values, sorted."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def take_up(turns: list[Turn], experiment: ServingExperiment, raw: Path, note: dict) -> list[Turn]:
    """What is still to run of `turns`, with `note` in `raw/experiment.json`.

    Whole turns count if the file holds the same `hash` already: they were made by the very same experiment. What was
    under way when it was killed runs again from its beginning. What another experiment measured there is moved aside.
    """
    same = is_same(raw, note)
    kept = [turn for turn in turns if same and turn.is_whole(experiment)]
    if not same and any(raw.rglob(WHOLE)):
        names = (raw.with_name(f"{raw.name}-before-{number}") for number in itertools.count(1))
        aside = next(place for place in names if not place.exists())
        raw.rename(aside)
        say(f"another experiment was measured here before: it is kept in {aside.name}")
    elif not kept:
        shutil.rmtree(raw, ignore_errors=True)
    for turn in turns:
        if turn not in kept and turn.place.exists():
            shutil.rmtree(turn.place)
    write_json(raw / NOTE, note)
    return [turn for turn in turns if turn not in kept]


def rate_name(qps: float) -> str:
    """How the files of a rate are called."""
    return f"qps-{qps:g}"
