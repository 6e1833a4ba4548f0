"""An experiment in parts that several GPUs, or several calls, serve; and the one run that is made of them.

    CUDA_VISIBLE_DEVICES=0 symmlib serve --profile one-gpu-serving --part 1/2 --out A
    CUDA_VISIBLE_DEVICES=1 symmlib serve --profile one-gpu-serving --part 2/2 --out B      # at the same time
    symmlib serve merge A B --out RUN

The arms of a block at one tensor-parallel size are compared with each other, so they stay on one GPU.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from symmlib.errors import UsageError
from symmlib.runs import write_json
from symmlib.serving import claim
from symmlib.serving.turns import NOTE, WHOLE, Turn

SERVERS = f"block-*/tp*-*/{WHOLE}"  # what each server leaves that ran to its end


@dataclass(frozen=True)
class Part:
    """The `number`-th (from 1) of `count` parts of an experiment; by default all of it."""

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> "Part":
        """From '2/4'. Raises `UsageError` for what is no part."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UsageError(f"part {text!r:.40} is not one of several, such as 1/2 and 2/2.")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def turns(self, turns: list[Turn]) -> list[Turn]:
        """Those of `turns` that belong to this part: every `count`-th pair of a block and a tensor-parallel size.

        More blocks change nothing about which part those before belong to.
        """
        pairs = list(dict.fromkeys((turn.block, turn.tp) for turn in turns))
        ours = pairs[self.number - 1 :: self.count]
        return [turn for turn in turns if (turn.block, turn.tp) in ours]


ALL = Part()


def merge(parts: list[Path], out: Path) -> tuple[int, int]:
    """Copy into the run `out` every server of the runs `parts` that ran to its end and that `out` lacks; returns how
    many were copied, and how many are in `out` now.

    Tables are not made: that is done by the experiment itself when it is started in `out`, as is what is still
    missing. Raises `UsageError`, having changed nothing, where `parts` and `out` are not of the same experiment, and
    while `out` is being measured into.
    """
    places = [Path(part) / "raw" / "serving" for part in parts]
    raw = Path(out) / "raw" / "serving"
    notes = {place: _note(place) for place in places}
    if any(raw.rglob(WHOLE)):
        notes[raw] = _note(raw)
    first, *others = notes
    for place in others:
        if notes[place]["hash"] != notes[first]["hash"]:
            raise UsageError(
                f"{place.parent.parent} and {first.parent.parent} are not of the same experiment: machine, code, "
                "versions, model, load, arms or routing table differ. `symmlib report compare` shows in what."
            )
    with claim.alone([], raw, holder=Path(out).resolve().name):
        copied = 0
        for place in places:
            for whole in sorted(place.glob(SERVERS)):
                target = raw / whole.parent.relative_to(place)
                if not (target / WHOLE).exists():
                    _copy(whole.parent, target)
                    copied += 1
            if (place / "routing.toml").exists() and not (raw / "routing.toml").exists():
                shutil.copyfile(place / "routing.toml", raw / "routing.toml")
        raw.mkdir(parents=True, exist_ok=True)
        write_json(raw / NOTE, max(notes.values(), key=lambda note: note["blocks"]))
    return copied, sum(1 for _ in raw.glob(SERVERS))


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all, so that an interruption leaves nothing that looks like a server's files."""
    half = target.with_name(f".{target.name}")
    for place in (half, target):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, half)
    half.rename(target)


def _note(raw: Path) -> dict:
    try:
        note = json.loads((raw / NOTE).read_text(encoding="utf-8"))
        return {**note, "hash": note["hash"], "blocks": note["blocks"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{raw.parent.parent} holds no serving experiment: no readable {raw / NOTE}.") from None
