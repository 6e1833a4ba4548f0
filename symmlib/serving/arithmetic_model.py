"""A small Llama whose answers mean something: trained here on `word_problems`, in a minute or two, once per machine.

With random weights no answer is right, so none can become wrong. This model solves most held-out problems, and a broken
sum between its ranks shows. `find_model("arithmetic")` gives it; it is kept in `cache()` and made again if its recipe
(this file, the problems, the tokenizer, torch's version) changes.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from symmlib.errors import SymmlibError
from symmlib.processes import ProcessGroup
from symmlib.progress import say
from symmlib.runs import write_json
from symmlib.serving import tokenizer, word_problems

NAME = "arithmetic"
SHOTS = 5  # worked examples before the question, as gsm8k is asked
SEED = 20759
STEPS = 750
BATCH = 8  # texts a step, each of SHOTS + 1 problems
LEARNING_RATE = 5e-3
WARMUP = 40  # steps
THREADS = 1  # small matrices gain little from a second, and others may need that core
MAX_LENGTH = 2048  # tokens that a server may be asked for; prompts of SHOTS examples have some 250
TIMEOUT_S = 1800
ASKS = "Question:"  # begins every problem
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 192,
    # 7 all-reduces a step: a fault of every 2nd, 5th or 50th call then strikes all of them in turn. With 2 layers, 5 a
    # step, it would meet the same one each time, and answers bear the loss of the last one.
    "num_hidden_layers": 3,
    "num_attention_heads": 4,  # so that it can be served at TP 2 and 4
    "num_key_value_heads": 4,
    "head_dim": 32,  # the smallest that vLLM serves on a CPU
    "max_position_embeddings": MAX_LENGTH,
    "rope_theta": 10000.0,
}
TRAIN = "import pathlib, sys; from symmlib.serving.arithmetic_model import train; train(pathlib.Path(sys.argv[1]))"
RECIPE = ("arithmetic_model.py", "word_problems.py", "tokenizer.py")


def cache() -> Path:
    """Where this machine keeps the trained model: below $XDG_CACHE_HOME, or ~/.cache, in symmlib/."""
    from importlib import metadata

    texts = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in RECIPE]
    recipe = hashlib.sha256("\0".join([*texts, metadata.version("torch")]).encode()).hexdigest()
    place = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(place).expanduser() / "symmlib" / f"{NAME}-{recipe[:12]}"


def trained() -> Path:
    """The directory of the model, trained first where this machine has none.

    Raises `SymmlibError` if the training fails. It is a process of its own, so that no thread of it is left here.
    """
    place = cache()
    if (place / "config.json").is_file():
        return place
    say(f"training the model {NAME!r} (a minute or two, once): {place}")
    began = time.monotonic()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=place.parent) as beside:
        made, log = Path(beside) / "model", Path(beside) / "training.log"
        argv = [sys.executable, "-c", TRAIN, str(made)]
        with ProcessGroup(argv, log=log, env={"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}) as group:
            if group.wait(TIMEOUT_S) != 0:
                raise SymmlibError(f"the model {NAME!r} could not be trained. The end of the log:\n{group.tail()}")
        shutil.copy(log, made / "training.log")
        try:
            made.rename(place)
        except OSError:  # somebody else was faster; theirs is the same
            if not (place / "config.json").is_file():
                raise
    say(f"  trained in {time.monotonic() - began:.0f} s")
    return place


def train(place: Path) -> Path:
    """Train the model from `SEED` and write it into `place`, as vLLM loads it: the weights in bfloat16.

    Prints the loss now and then. On one machine always the same weights: seeds, threads and steps are fixed.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    place.mkdir(parents=True, exist_ok=True)
    size = tokenizer.write_tokenizer(place, tokenizer.whole_words(_words()), MAX_LENGTH)
    encode = PreTrainedTokenizerFast.from_pretrained(place).encode
    config = LlamaConfig(vocab_size=size, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False, **SHAPE)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    began = time.monotonic()
    stream = word_problems.problems(SEED, held_out=False)
    for step in range(1, STEPS + 1):
        inputs, targets = _batch(stream, encode, torch)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(step / WARMUP, 1) * (1 - 0.95 * step / STEPS)
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == STEPS:
            print(f"step {step} of {STEPS}: loss {loss.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)
    model.to(torch.bfloat16).save_pretrained(place)
    facts = {"seconds": round(time.monotonic() - began, 1), "steps": STEPS, "loss": round(loss.item(), 5)}
    write_json(place / "training.json", facts)
    return place


def _batch(stream, encode, torch):
    """Inputs and targets of BATCH texts of SHOTS + 1 problems: only answers are to be learned, and what ends them.

    That is the next question's first word, by which lm-eval knows that an answer is over.
    """
    rows = []
    for _ in range(BATCH):
        tokens, learned = [], []
        for problem in islice(stream, SHOTS + 1):
            question, solved = (text.format(**problem) for text in (word_problems.QUESTION, word_problems.SOLVED))
            asked = question.removeprefix(ASKS)
            for text, counts in ((ASKS, True), (asked, False), (solved.removeprefix(question), True)):
                ids = encode(text)
                tokens += ids
                learned += [counts] * len(ids)
        tokens += encode(ASKS)
        learned += [True] * (len(tokens) - len(learned))
        rows.append((tokens, learned))
    longest = max(len(tokens) for tokens, _ in rows)
    inputs = torch.zeros(BATCH, longest, dtype=torch.long)
    targets = torch.full((BATCH, longest), -100)
    for row, (tokens, learned) in enumerate(rows):
        inputs[row, : len(tokens)] = torch.tensor(tokens)
        following = [token if counts else -100 for token, counts in zip(tokens[1:], learned[1:], strict=True)]
        targets[row, : len(following)] = torch.tensor(following)
    return inputs, targets


def _words() -> list[str]:
    """Every word that problems are made of, as the tokenizer meets it: with the space before it.

    A number is its digits, the first of them with the space.
    """
    texts = [*word_problems.GAINS, *word_problems.LOSSES, word_problems.ASKED, word_problems.WORKED]
    known = {word for text in texts for word in text.split() if word.isalpha() and len(word) > 1}
    names = [*word_problems.NAMES, *word_problems.THINGS, *sorted(known)]
    return [*(f" {word}" for word in [*names, *"0123456789+-="]), "Question", "Answer", "####"]
