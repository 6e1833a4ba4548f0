"""Greedy answers to a fixed set of prompts, with the logprobs of the two best tokens at each step.

Asked one at a time, so that no batch depends on timing: servers that sum alike must then answer alike, to the last bit.
`accuracy` asks every server; `analysis.agreement` compares what is kept here.
"""

import json
import urllib.request
from itertools import islice
from pathlib import Path

import pandas as pd

from symmlib import patience
from symmlib.analysis import agreement as analysis
from symmlib.errors import SymmlibError
from symmlib.runs import write_json
from symmlib.serving import access, word_problems
from symmlib.serving.arithmetic_model import SHOTS
from symmlib.serving.model import Model

PROMPT_SEED = 31
TIMEOUT_S = 300  # for one answer


def prompts(count: int) -> list[str]:
    """`count` word problems, each after worked examples of its own: always the same. A text for any model."""
    shown, asked = (word_problems.problems(PROMPT_SEED, held_out=held_out) for held_out in (False, True))
    made = []
    for problem in islice(asked, count):
        examples = "".join(word_problems.SOLVED.format(**example) for example in islice(shown, SHOTS))
        made.append(examples + word_problems.QUESTION.format(**problem))
    return made


def ask(url: str, model: Model, count: int, tokens: int, path: Path) -> Path:
    """Ask the server at `url` for `tokens` greedy tokens after each prompt, and keep them in the JSON file `path`.

    A list with, for each prompt, `token_ids`, `logprobs` (of the chosen token at each step, natural) and `gaps` (by how
    much that is above the next best token's). Raises `SymmlibError` if the server does not answer.
    """
    answers = []
    for prompt in prompts(count):
        body = {"model": model.name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        body |= {"logprobs": 2, "return_token_ids": True, "seed": 0}
        choice = _post(f"{url}/v1/completions", body)["choices"][0]
        chosen, best = choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]
        gaps = [
            _gap(at, token, others)
            for at, token, others in zip(chosen, choice["logprobs"]["tokens"], best, strict=True)
        ]
        answers.append({"token_ids": choice["token_ids"], "logprobs": chosen, "gaps": gaps, "text": choice["text"]})
    return write_json(path, answers)


def table(answers: dict[tuple[int, str], Path], baseline: str) -> pd.DataFrame:
    """Every arm's answers against those of `baseline` (columns: `analysis.agreement.COLUMNS`).

    `answers`: (tp, arm) -> the file that `ask` wrote. Where the baseline has none, nothing is compared.
    """
    given = {key: json.loads(path.read_text(encoding="utf-8")) for key, path in answers.items()}
    tables = [
        analysis.compare(given[tp, baseline], those).assign(tp=tp, baseline=baseline, treatment=arm)[analysis.COLUMNS]
        for (tp, arm), those in given.items()
        if arm != baseline and (tp, baseline) in given
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=analysis.COLUMNS)


def _gap(logprob: float, token: str, others: dict[str, float]) -> float:
    """How far the chosen token's `logprob` lies above that of the best of the `others`; 0 for a tie.

    Tokens are told apart by their text: where two have the same, the better one stands for both.
    """
    return max(0.0, logprob - max((value for name, value in others.items() if name != token), default=logprob))


def _post(url: str, body: dict) -> dict:
    headers = {"Content-Type": "application/json", **access.headers()}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with access.open_url(request, patience.seconds(TIMEOUT_S)) as response:
            return json.load(response)
    except OSError as error:
        raise SymmlibError(f"the server at {url} did not answer a single request: {error}.") from None
