"""A profile is checked as a whole before anything starts: a typo must cost a second, not a night."""

import pytest

from symmlib import notebooks, profiles, suite
from symmlib.errors import UsageError

BASE = {"name": "mine", "parameters": {"01_environment": {}, "02_allreduce": {"world_size": 4}}}


@pytest.mark.parametrize("name", profiles.names())
def test_every_shipped_profile_is_valid_and_describes_itself(name):
    profile = profiles.load(name)
    suite.validate(profile)
    assert profile.name == name
    assert profile.description.endswith(".")
    assert list(profile.parameters) == sorted(profile.parameters)


def test_the_profiles_that_a_machine_chooses_by_default_are_shipped():
    assert {"cpu", "smoke", "b200-tp8", "b200-tp4"} <= set(profiles.names())


def test_smoke_runs_every_notebook():
    assert list(profiles.load("smoke").parameters) == notebooks.names()


def test_a_profile_says_all_that_will_run_defaults_included():
    profile = profiles.parse(BASE, "test")
    defaults = {name: parameter.default for name, parameter in notebooks.parameters_of("02_allreduce").items()}
    del defaults["run_dir"]
    assert profile.parameters["02_allreduce"] == {**defaults, "world_size": 4}


def test_what_is_written_is_read_back_as_the_same_profile(tmp_path):
    profile = profiles.parse(BASE, "test")
    (tmp_path / "params.yaml").write_text(profile.dumps())
    again = profiles.load(tmp_path / "params.yaml")
    assert again == profile
    assert again.hash == profile.hash


def test_the_hash_follows_what_runs_and_not_the_description():
    profile = profiles.parse(BASE, "test")
    assert profiles.parse({**BASE, "description": "words"}, "test").hash == profile.hash
    other = {**BASE, "parameters": {**BASE["parameters"], "02_allreduce": {"world_size": 2}}}
    assert profiles.parse(other, "test").hash != profile.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parametres": {}}, r"unknown key 'parametres'. Did you mean 'parameters'\?"),
        ({"parameters": {"02_alreduce": {}}}, r"unknown notebook '02_alreduce'. Did you mean '02_allreduce'\?"),
        (
            {"parameters": {"02_allreduce": {"word_size": 2}}},
            r"unknown parameter 'word_size'. Did you mean 'world_size'",
        ),
        (
            {"parameters": {"02_allreduce": {"world_size": "2"}}},
            r"world_size must be of type int \| list\[int\], not '2'",
        ),
        (
            {"parameters": {"02_allreduce": {"world_size": True}}},
            r"world_size must be of type int \| list\[int\], not True",
        ),
        (
            {"parameters": {"02_allreduce": {"world_size": [2, "4"]}}},
            r"type int \| list\[int\], not \[2, '4'\] \(list\)",
        ),
        ({"parameters": {"02_allreduce": {"one_gpu": 1}}}, r"one_gpu must be of type bool, not 1 \(int\)"),
        ({"parameters": {"02_allreduce": {"backends": "gloo"}}}, r"backends must be of type list\[str\], not 'gloo'"),
        ({"parameters": {"02_allreduce": {"backends": [1]}}}, r"backends must be of type list\[str\], not \[1\]"),
        ({"parameters": {"02_allreduce": [2]}}, "02_allreduce must hold parameters by name"),
        ({"parameters": {"02_allreduce": False}}, "02_allreduce must hold parameters by name, not False"),
        (
            {"parameters": {"02_allreduce": {"run_dir": "x"}}},
            "unknown parameter 'run_dir'. Valid: backends, .*sizes, w",
        ),
        (
            {"parameters": {"04_serving": {"duration_s": "1.0e308"}}},
            r"YAML takes 1.0e308 for text: write 1.0e\+308",
        ),
        ({"parameters": {}}, "a profile needs parameters"),
        ({"name": ""}, "a profile needs name"),
        ({"name": "../elsewhere"}, "becomes part of a directory's"),
        ({"name": 7}, "name must be of type str, not 7"),
    ],
)
def test_a_mistake_is_named_with_its_place(change, message):
    with pytest.raises(UsageError, match=f"^test: .*{message}"):
        profiles.parse({**BASE, **change}, "test")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backends": ["glo"]}, "unknown backend 'glo'. Did you mean 'gloo'"),
        ({"sizes": "4KB"}, "'4KB' is not a message size"),
        ({"world_size": 64}, "world_size 64 is more than 8"),
    ],
)
def test_what_a_plan_would_refuse_is_refused_before_anything_starts(parameters, message):
    profile = profiles.parse({**BASE, "parameters": {"02_allreduce": parameters}}, "test")
    with pytest.raises(UsageError, match=f"profile mine: 02_allreduce: {message}"):
        suite.validate(profile)


def test_an_unknown_profile_is_answered_with_the_closest_and_all_others():
    with pytest.raises(UsageError, match=r"unknown profile 'cpuu'. Did you mean 'cpu'\? Valid: b200-tp2, .*smoke"):
        profiles.load("cpuu")


def test_a_file_that_is_not_there_or_no_yaml_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot read the profile .*none.yaml: No such file"):
        profiles.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(UsageError, match="bad.yaml is no YAML file"):
        profiles.load(tmp_path / "bad.yaml")
    (tmp_path / "text.yaml").write_text("only words")
    with pytest.raises(UsageError, match="text.yaml: a profile has the keys name, description, parameters"):
        profiles.load(tmp_path / "text.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 2026-13-45", "is no YAML file: month must be in"),
        ("parameters: " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
        ("name: mine\nparameters:\n  02_allreduce: {launches: 1, launches: 2}\n", "'launches' is given twice"),
        ("name: mine\nname: yours\n", "'name' is given twice"),
    ],
)
def test_an_odd_document_is_refused_with_its_file(tmp_path, text, message):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UsageError, match=f"odd.yaml .*{message}"):
        profiles.load(tmp_path / "odd.yaml")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"03_routing": {"candidates": ["glo"]}}, "03_routing: unknown backend 'glo'. Did you mean 'gloo'"),
        ({"03_routing": {"incumbent": "host/on_shot"}}, "03_routing: unknown backend 'host/on_shot'"),
        ({"03_routing": {"held_out_launches": 0}}, "03_routing: held_out_launches 0 is not at least 1"),
        ({"04_serving": {"model": "~nouser/x"}}, "04_serving: cannot look for the model '~nouser/x'"),
        ({"04_serving": {"model": ""}}, "04_serving: there is no model ''"),
    ],
)
def test_routes_and_models_that_do_not_exist_are_refused_before_anything_starts(parameters, message):
    with pytest.raises(UsageError, match=f"profile mine: {message}"):
        suite.validate(profiles.parse({**BASE, "parameters": parameters}, "test"))


def test_another_model_tp_and_rate_are_set_wherever_a_profile_has_them():
    changed = profiles.load("b200-tp8").with_load(model="tiny", tp=[4, 2], qps=[0.5])
    assert changed.parameters["02_allreduce"]["world_size"] == [4, 2]
    for step in ("04_serving", "05_accuracy"):
        assert changed.parameters[step]["model"] == "tiny" and changed.parameters[step]["tp"] == [4, 2]
    assert changed.parameters["04_serving"]["qps"] == [0.5]
    assert changed.description.endswith("some two hours. model: tiny. tp: [4, 2]. qps: [0.5].")
    suite.validate(changed)
    suite.require_routes(changed)
    assert profiles.load("b200-tp8").with_load() == profiles.load("b200-tp8")


def test_accuracy_keeps_its_own_sizes_where_they_are_among_the_new_ones():
    asked = [profiles.load("pr20759-b200").with_load(tp=tp).parameters["05_accuracy"]["tp"] for tp in ([8, 4], [8])]
    assert asked == [[4], [8]]  # of 4


def test_where_nothing_is_served_tp_is_the_ranks_that_are_measured():
    assert profiles.load("nvlink-8").with_load(tp=[4]).parameters["02_allreduce"]["world_size"] == 4


def test_one_tp_is_one_world_size_and_the_same_load_the_same_profile():
    profile = profiles.load("b200-tp8")
    assert profile.with_load(tp=[4]).parameters["02_allreduce"]["world_size"] == 4
    assert profile.with_load(tp=[8], qps=[1, 5, 10]).hash == profile.hash


def test_a_load_that_a_profile_has_no_place_for_is_refused():
    with pytest.raises(UsageError, match="the profile nvlink-2 has no section with a qps to change"):
        profiles.load("nvlink-2").with_load(qps=[1])


def test_the_router_is_not_served_at_a_tp_without_routes():
    parameters = {"02_allreduce": {"world_size": [2, 8]}, "03_routing": {}, "04_serving": {"tp": [2, 4]}}
    with pytest.raises(UsageError, match=r"04_serving: tp 4 is not among the world_size of 02_allreduce \(2, 8\)"):
        suite.require_routes(profiles.parse({"name": "mine", "parameters": parameters}, "test"))
    parameters["04_serving"] |= {"arms": ["gloo", "vllm/shm"], "treatment": "vllm/shm"}
    suite.require_routes(profiles.parse({"name": "mine", "parameters": parameters}, "test"))
