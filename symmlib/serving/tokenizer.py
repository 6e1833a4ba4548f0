"""The tokenizer of the models that are made here: byte-level BPE, so that any text reads back as it was.

Written by hand rather than learned: which words are one token is the caller's choice. `model` and `arithmetic_model`
call it.
"""

from pathlib import Path

from symmlib.runs import write_json

SPECIAL = ("<s>", "</s>")  # the tokens 0 and 1: begin and end of text
SPACE = "Ġ"  # how byte-level tokenizers write a space


def write_tokenizer(place: Path, merges: list[list[str]], max_length: int) -> int:
    """Write tokenizer.json and tokenizer_config.json into `place`; returns the size of the vocabulary.

    `merges`: pairs of tokens that become one, in the order of their rank. Always the same bytes.
    """
    tokens = [*SPECIAL, *_byte_characters(), *dict.fromkeys("".join(pair) for pair in merges)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [_special(number, token) for number, token in enumerate(SPECIAL)],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for message in messages %}{{ message['content'] }}\n{% endfor %}",
    }
    for file, data in (("tokenizer", tokenizer), ("tokenizer_config", settings)):
        write_json(place / f"{file}.json", data)
    return len(tokens)


def whole_words(words: list[str]) -> list[list[str]]:
    """Merges that make each of `words` (ASCII, such as " pens") one token: its letters are joined from the first on.

    So no merge of one word can take a letter from another's beginning.
    """
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = word.replace(" ", SPACE)
        for end in range(1, len(letters)):
            merges.setdefault((letters[:end], letters[end]))
    return [list(pair) for pair in merges]


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte 0-255 in byte-level vocabularies, as GPT-2 defined them."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    shifted = iter(range(256, 512))
    return [chr(byte if byte in printable else next(shifted)) for byte in range(256)]


def _special(number: int, token: str) -> dict:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True, **flags}
