"""Word problems of our own, and the model's tokenizer that makes single tokens of their words."""

import json
import re
from itertools import islice

from tokenizers import Tokenizer

from symmlib.serving import arithmetic_model, word_problems
from symmlib.serving.tokenizer import whole_words, write_tokenizer


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_answer_follows_from_its_question_and_ends_as_gsm8k_s_do():
    for problem in islice(word_problems.problems(3, held_out=False), 300):
        a, b = map(int, re.findall(r"\d+", problem["question"]))
        gains = re.search("buys|more", problem["question"])
        result = a + b if gains else a - b
        assert result >= 0 and problem["answer"].endswith(f"\n#### {result}")
        assert re.search(rf"{a} [+-] {b} = {result} ", problem["answer"])


def test_held_out_problems_are_never_among_those_for_training():
    held_out, rest = (
        {problem["question"] for problem in islice(word_problems.problems(5, held_out=kind), 2000)}
        for kind in (True, False)
    )
    assert not held_out & rest


def test_the_files_are_the_same_bytes_every_time_and_more_items_begin_with_fewer(tmp_path):
    few, again, more = (
        word_problems.write(tmp_path / name, items) for name, items in (("a", 20), ("b", 20), ("c", 30))
    )
    assert (few / "test.jsonl").read_bytes() == (again / "test.jsonl").read_bytes()
    assert lines(more / "test.jsonl")[:20] == lines(few / "test.jsonl")
    assert len({problem["question"] for problem in lines(more / "test.jsonl")}) == 30
    assert (few / "train.jsonl").read_bytes() == (more / "train.jsonl").read_bytes()


def test_the_tokenizer_reads_problems_back_and_takes_a_word_for_one_token(tmp_path):
    size = write_tokenizer(tmp_path, whole_words(arithmetic_model._words()), 1024)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == size < 512
    text = word_problems.SOLVED.format(**next(word_problems.problems(0, held_out=True)))
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded.ids) == text
    assert {"Question", "Ġhas", "Ġ=", "##"} <= set(encoded.tokens)
    assert len(encoded.ids) < 50  # so that five worked examples and a question fit many times into the context


def test_where_the_model_is_kept_follows_its_recipe_and_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert arithmetic_model.cache().parent == tmp_path / "symmlib"
    before = arithmetic_model.cache()
    monkeypatch.setattr(arithmetic_model, "RECIPE", arithmetic_model.RECIPE[:1])
    assert arithmetic_model.cache() != before
