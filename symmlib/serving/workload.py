"""What is asked of the servers: sonnets as in vLLM pull request 20759 where the installed vLLM still has them, or else
random tokens of the same lengths, of which as many are shared."""

import importlib.util
from pathlib import Path

from symmlib.errors import UsageError
from symmlib.serving.experiment import ServingExperiment


def dataset_arguments(experiment: ServingExperiment) -> list[str]:
    """What to ask: lines of sonnets where there are such, else random tokens of the same lengths and shared prefix."""
    lengths = experiment.input_len, experiment.output_len, experiment.prefix_len
    if experiment.sonnet_path and knows_sonnet():
        path = Path(experiment.sonnet_path).expanduser()
        if not path.is_file():
            raise UsageError(
                f"sonnet_path {experiment.sonnet_path!r:.200} is no file. Leave it empty for random tokens."
            )
        given = ["--dataset-name", "sonnet", "--dataset-path", str(path.resolve())]
        return given + _lengths("sonnet", *lengths)
    # Of random prompts vLLM counts the shared prefix on top of the input length.
    return ["--dataset-name", "random", *_lengths("random", lengths[0] - lengths[2], *lengths[1:])]


def _lengths(dataset: str, input_len: int, output_len: int, prefix_len: int) -> list[str]:
    lengths = {"input": input_len, "output": output_len, "prefix": prefix_len}
    return [text for name, value in lengths.items() for text in (f"--{dataset}-{name}-len", str(value))]


def knows_sonnet() -> bool:
    """Whether the installed vLLM can still read sonnets; it could until 0.31. Found in its source, without import."""
    spec = importlib.util.find_spec("vllm")
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    files = [file for place in places for file in Path(place, "benchmarks").rglob("*.py") if "dataset" in str(file)]
    return any("class SonnetDataset" in file.read_text(encoding="utf-8", errors="replace") for file in files)


def in_words(experiment: ServingExperiment) -> str:
    """The requests in a phrase, for the report: of what, how long, and why not of sonnets."""
    shared = f", the first {experiment.prefix_len} the same for all" if experiment.prefix_len else ""
    lengths = f"{experiment.input_len} tokens in{shared}, {experiment.output_len} out"
    if experiment.sonnet_path and knows_sonnet():
        return f"lines of {Path(experiment.sonnet_path).name}, {lengths}"
    why = "the installed vLLM has no sonnet dataset" if experiment.sonnet_path else "no sonnet_path was given"
    return f"random tokens, {lengths} ({why})"
