"""Arithmetic word problems of this project's own making, in the format of gsm8k: for machines without a data hub.

    {"question": "Anna has 12 pens. Ben gives Anna 7 more. How many pens does Anna have now?",
     "answer": "Anna has 12 + 7 = 19 pens.\\n#### 19"}

One step each, with numbers up to `MOST`, so that `arithmetic_model`, which trains in a minute or two, can solve them.
The question alone decides whether a problem is held out, so nothing that was trained on is ever asked.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

from symmlib.runs import write_text

MOST = 9  # the largest number in a question; sums reach twice that
TRAIN, TEST = "train.jsonl", "test.jsonl"
HELD_OUT = 8  # one question in so many is never trained on
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Gina", "Hugo")
THINGS = ("pens", "books", "apples", "stones", "coins", "cards", "shells", "stamps")
GAINS = (
    "{name} has {a} {things}. {other} gives {name} {b} more.",
    "{name} has {a} {things}. Then {name} buys {b} more.",
)
LOSSES = (
    "{name} has {a} {things}. {name} gives {other} {b} of them.",
    "{name} has {a} {things}. Then {name} loses {b} of them.",
)
ASKED = " How many {things} does {name} have now?"
WORKED = "{name} has {a} {sign} {b} = {result} {things}.\n#### {result}"
QUESTION = "Question: {question}\nAnswer:"  # how lm-eval's gsm8k asks
SOLVED = QUESTION + " {answer}\n\n"  # ... and shows worked examples before that


def problems(seed: int, *, held_out: bool) -> Iterator[dict[str, str]]:
    """An endless stream of problems (`question`, `answer`), the same for the same `seed`, held-out ones or the rest."""
    chance = random.Random(seed)
    while True:
        problem = _problem(chance)
        if is_held_out(problem["question"]) == held_out:
            yield problem


def is_held_out(question: str) -> bool:
    """Whether a question belongs to the test set, whoever makes it."""
    return hashlib.sha256(question.encode()).digest()[0] % HELD_OUT == 0


def write(place: Path, items: int, seed: int = 0) -> Path:
    """Write train.jsonl (for the worked examples of a prompt) and test.jsonl (`items` different held-out problems).

    Always the same bytes for the same `items` and `seed`, and the first ones of more items are those of fewer.
    """
    for name, held_out, count in ((TRAIN, False, 200), (TEST, True, items)):
        found: dict[str, dict] = {}
        stream = problems(2 * seed + held_out, held_out=held_out)
        while len(found) < count:
            problem = next(stream)
            found.setdefault(problem["question"], problem)
        write_text(place / name, "".join(json.dumps(problem) + "\n" for problem in found.values()))
    return place


def _problem(chance: random.Random) -> dict[str, str]:
    name, other = chance.sample(NAMES, 2)
    things = chance.choice(THINGS)
    a, b = chance.randint(1, MOST), chance.randint(1, MOST)
    if chance.random() < 0.5:
        told, sign, result = chance.choice(GAINS), "+", a + b
    else:
        a, b = max(a, b), min(a, b)
        told, sign, result = chance.choice(LOSSES), "-", a - b
    words = {"name": name, "other": other, "things": things, "a": a, "b": b, "sign": sign, "result": result}
    return {"question": (told + ASKED).format(**words), "answer": WORKED.format(**words)}
