"""What a server is to serve: a model made here without any download, or the user's own.

Models that are made here are Llamas with random weights (vLLM makes them, by `--load-format dummy`): worthless answers,
but the same operations, messages and scheduling. `tiny`, of 4 layers, does that on a laptop's processor; `dummy-8b` and
`dummy-70b` have the shapes of Llama 3.1, for GPUs to which no weights can be brought. `arithmetic` is the one whose
answers mean something: `arithmetic_model` trains it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from symmlib.errors import UsageError
from symmlib.runs import write_json
from symmlib.serving import arithmetic_model
from symmlib.serving.tokenizer import SPACE, write_tokenizer

TINY = "tiny"
_SHAPES = {  # all-reduces a step at TP>1: two a layer and one for the embedding
    TINY: {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,  # divisible by every tensor-parallel size of one host
        "max_position_embeddings": 8192,
    },
    # The config.json of meta-llama/Llama-3.1-8B-Instruct and -70B-Instruct.
    "dummy-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "vocab_size": 128256,
    },
    "dummy-70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "vocab_size": 128256,
    },
}
OURS = tuple(_SHAPES)
# One of these is among the files of any model with weights.
_OF_WEIGHTS = [f"{stem}{end}" for stem in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json")]
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")

# As the hub's own library checks it.
_HUB_ID = re.compile(r"(?!.*(--|\.\.|\.git$))\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
_WHAT_IS_ONE = (
    "Give 'tiny', 'arithmetic', 'dummy-8b', 'dummy-70b', a directory with a config.json, or a hub id such as "
    "meta-llama/Llama-3.1-70B-Instruct."
)


@dataclass(frozen=True)
class Model:
    """`name`: what vLLM is given. `dummy`: it has no weights, so vLLM makes random ones. `local`: it is a directory."""

    name: str
    dummy: bool
    local: bool


def find_model(name: str, place: Path | None = None) -> Model:
    """The model that an experiment calls `name`; one of ours is made in the directory `place`, if that is given.
    (`arithmetic`, which is kept for all experiments of this machine, is made where it is kept.)

    Raises `UsageError` for a directory without a config.json, and for what is neither a directory nor a hub id.
    """
    if name == arithmetic_model.NAME:
        return Model(str(arithmetic_model.trained()) if place else name, dummy=False, local=True)
    if name in _SHAPES:
        return Model(str(make_model(place, name)) if place else name, dummy=True, local=True)
    try:
        path = Path(name).expanduser()
        is_there, is_directory = bool(name) and path.exists(), bool(name) and path.is_dir()
    except (OSError, RuntimeError) as error:  # no right to look, a name too long, a home of nobody
        raise UsageError(f"cannot look for the model {name!r:.80}: {error}. {_WHAT_IS_ONE}") from None
    if is_directory:
        if not (path / "config.json").is_file():
            raise UsageError(f"{path} is no model: it has no config.json. Give the directory that holds it, or 'tiny'.")
        return Model(str(path.resolve()), dummy=not any(any(path.glob(kind)) for kind in WEIGHTS), local=True)
    if is_there:
        raise UsageError(f"{path} is a file. Give the directory that holds the model's config.json.")
    if not _HUB_ID.fullmatch(name):
        raise UsageError(f"there is no model {name!r:.80}. {_WHAT_IS_ONE}")
    return Model(name, dummy=False, local=False)


def to_download(name: str) -> str:
    """What there is to know before a server downloads the hub's model `name`, in words; empty where nothing is to be.

    That is so for our own models, for directories, for what the hub's cache on this machine has (a download that was
    interrupted can look like a whole one), and where the hub's library is not installed.
    """
    if name in (*OURS, arithmetic_model.NAME) or find_model(name).local:
        return ""
    try:
        from huggingface_hub import constants, get_token, try_to_load_from_cache
    except ImportError:
        return ""
    if any(isinstance(try_to_load_from_cache(name, file), str) for file in _OF_WEIGHTS):
        return ""
    obstacle = ""
    if constants.HF_HUB_OFFLINE:
        obstacle = ", which HF_HUB_OFFLINE forbids"
    elif not get_token():
        obstacle = ", without a token (HF_TOKEN), which models under a licence need"
    return f"{name} is not in the hub's cache here, so the first server downloads it{obstacle}"


def make_model(place: Path, name: str = TINY) -> Path:
    """Write the configuration and tokenizer of one of our models into the directory `place`: always the same bytes.

    All have the same small tokenizer; a larger `vocab_size` is that of the weights, and costs what it costs.
    """
    shape = _SHAPES[name]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": write_tokenizer(place, _short_words(), shape["max_position_embeddings"]),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
        **shape,
    }
    write_json(place / "config.json", config)
    return place


def _short_words() -> list[list[str]]:
    """Every word of one or two letters, with its space before it, as merges.

    Short words keep random prompts at their length: text from consecutive tokens reads back as the same tokens.
    """
    words = [[SPACE, letter] for letter in ascii_lowercase]
    return words + [[f"{SPACE}{first}", second] for first in ascii_lowercase for second in ascii_lowercase]


def describe(model: Model) -> str:
    """The model in a phrase, for a progress line."""
    if model.dummy and (Path(model.name) / "config.json").is_file():
        config = json.loads((Path(model.name) / "config.json").read_text(encoding="utf-8"))
        return f"{model.name} with random weights ({config.get('num_hidden_layers', '?')} layers)"
    return model.name
