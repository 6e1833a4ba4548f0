"""The tiny model, and how a user's model is found or refused."""

import json

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import HFValidationError, validate_repo_id
from tokenizers import Tokenizer

from symmlib.errors import UsageError
from symmlib.serving.model import OURS, find_model, make_model, to_download


def test_the_tiny_model_is_the_same_bytes_every_time(tmp_path):
    files = [{path.name: path.read_bytes() for path in make_model(tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1]
    assert set(files[0]) == {"config.json", "tokenizer.json", "tokenizer_config.json"}


def test_its_tokenizer_reads_any_text_back(tmp_path):
    tokenizer = Tokenizer.from_file(str(make_model(tmp_path) / "tokenizer.json"))
    text = "the cat, naïve — 数学 🐈\n\t 2+2"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab_size() == json.loads((tmp_path / "config.json").read_text())["vocab_size"]


def test_a_prompt_of_consecutive_tokens_keeps_its_length(tmp_path):
    tokenizer = Tokenizer.from_file(str(make_model(tmp_path) / "tokenizer.json"))
    words = list(range(300, 428))
    assert tokenizer.encode(tokenizer.decode(words)).ids == words


def test_a_directory_without_weights_gets_random_ones(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path), tmp_path).dummy
    (tmp_path / "model-00001-of-00001.safetensors").touch()
    assert not find_model(str(tmp_path), tmp_path).dummy


def test_a_hub_id_is_left_to_vllm(tmp_path):
    model = find_model("meta-llama/Llama-3.1-70B-Instruct", tmp_path)
    assert (model.name, model.dummy, model.local) == ("meta-llama/Llama-3.1-70B-Instruct", False, False)


@pytest.mark.parametrize("name", ["tinny", "/no/such/place", "./models/llama/8b", "~nouser/x", "", "a\0b", "x" * 5000])
def test_what_is_no_model_is_refused_with_what_would_be_one(name, tmp_path):
    with pytest.raises(UsageError, match="Give 'tiny', .*a directory with a config.json, or a hub id"):
        find_model(name, tmp_path)


def test_a_directory_without_a_config_is_refused_and_named(tmp_path):
    with pytest.raises(UsageError, match=f"{tmp_path} is no model: it has no config.json"):
        find_model(str(tmp_path), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is a file"):
        find_model(str(tmp_path / "config.json"), tmp_path)


NAMES = ("a/b", "a_b/C-3.1", "_a/b_", "a/b--c", "../x", "a/..", "a/b..c", "a/b.git", "a.git/b", "-a/b", "a/b-", "a./b",
         "ä/ö", "a/" + "b" * 96, "a/" + "b" * 97, "a/b/c", "a/")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_the_hub_would_refuse_is_refused_here(name):
    try:
        validate_repo_id(name)
    except HFValidationError:
        with pytest.raises(UsageError, match="there is no model|is a file"):
            find_model(name)
    else:
        assert find_model(name).name == name


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub's, on a machine that has no token and is not told to stay offline."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def test_a_hub_model_that_is_not_here_is_told_of_with_what_may_keep_it_from_coming(hub_cache, monkeypatch):
    told = "some/model is not in the hub's cache here, so the first server downloads it"
    assert to_download("some/model") == f"{told}, without a token (HF_TOKEN), which models under a licence need"
    monkeypatch.setenv("HF_TOKEN", "hf_not-a-real-one")
    assert to_download("some/model") == told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert to_download("some/model") == f"{told}, which HF_HUB_OFFLINE forbids"


def test_nothing_is_told_of_models_that_are_here(hub_cache, tmp_path):
    kept = hub_cache / "models--some--model"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123abcd")
    (kept / "snapshots" / "0123abcd").mkdir(parents=True)
    for directory in (kept / "snapshots" / "0123abcd", tmp_path):
        (directory / "config.json").write_text("{}")
    assert to_download("some/model"), "only its configuration is here"
    (kept / "snapshots" / "0123abcd" / "model.safetensors.index.json").write_text("{}")
    assert [name for name in ("some/model", str(tmp_path), "arithmetic", *OURS) if to_download(name)] == []
