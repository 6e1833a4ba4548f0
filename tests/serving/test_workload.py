"""What is asked: the lengths of vLLM pull request 20759, of sonnets or of random tokens."""

import pytest

from symmlib.errors import UsageError
from symmlib.serving import ServingExperiment, workload

PULL_REQUEST = {"input_len": 550, "output_len": 150, "prefix_len": 200}


@pytest.fixture
def old_vllm(tmp_path, monkeypatch):
    """A source tree that has the dataset, found before the installed one, as vLLM's was until 0.31."""
    place = tmp_path / "old" / "vllm" / "benchmarks"
    place.mkdir(parents=True)
    (place.parent / "__init__.py").touch()
    (place / "datasets.py").write_text("class SonnetDataset(BenchmarkDataset):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / "old"))


def test_a_vllm_without_sonnets_gets_random_tokens_of_the_same_lengths_and_the_report_says_why(tmp_path):
    path = tmp_path / "sonnet.txt"
    path.write_text("FROM fairest creatures we desire increase,\n")
    experiment = ServingExperiment(**PULL_REQUEST, sonnet_path=str(path))
    arguments = workload.dataset_arguments(experiment)
    assert arguments == ["--dataset-name", "random", "--random-input-len", "350", "--random-output-len", "150",
                         "--random-prefix-len", "200"]  # fmt: skip
    said = workload.in_words(experiment)
    assert said.startswith("random tokens, 550 tokens in, the first 200 the same for all, 150 out")
    assert "the installed vLLM has no sonnet dataset" in said
    assert "no sonnet_path was given" in workload.in_words(ServingExperiment(**PULL_REQUEST))


def test_a_vllm_with_sonnets_gets_the_file(tmp_path, old_vllm):
    path = tmp_path / "sonnet.txt"
    path.write_text("FROM fairest creatures we desire increase,\n")
    experiment = ServingExperiment(**PULL_REQUEST, sonnet_path=str(path))
    arguments = workload.dataset_arguments(experiment)
    assert arguments[:4] == ["--dataset-name", "sonnet", "--dataset-path", str(path)]
    assert arguments[4:] == ["--sonnet-input-len", "550", "--sonnet-output-len", "150", "--sonnet-prefix-len", "200"]
    assert workload.in_words(experiment).startswith("lines of sonnet.txt, 550 tokens in")


def test_a_file_that_is_not_there_is_named(tmp_path, old_vllm):
    with pytest.raises(UsageError, match="no-such.txt' is no file"):
        workload.dataset_arguments(ServingExperiment(sonnet_path=str(tmp_path / "no-such.txt")))
