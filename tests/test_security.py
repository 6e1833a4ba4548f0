"""What docs/security.md promises of the code itself and of a run's files: no shell, safe YAML, no secrets kept."""

import ast
import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import symmlib
from symmlib import profiles, provenance, safe_yaml
from symmlib.errors import SymmlibError, UsageError
from symmlib.profiles import Profile, _Loader, yaml
from symmlib.provenance import secret_in
from symmlib.report import contents, make_index, make_report, publish
from symmlib.runs import Run, without_secrets, write_text
from symmlib.serving import access, claim, server
from symmlib.serving.arms import Arm
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.model import Model

ROOT = Path(symmlib.__file__).parent
CALLS = [
    (path.relative_to(ROOT.parent).as_posix(), node)
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "scripts").glob("*.py")]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Call)
]
TOKENS = {  # by how they are written into a command line or a log
    "hf_AbCdEfGhIjKlMnOpQrSt": "{}",
    "sk-proj-AbCdEfGhIjKlMn0123": "Authorization: Bearer {}",
    "glpat-AbCdEfGh_IjKlMn": "--token={}",
    "S3cr3t-of-nobody-else": "--api-key {}",
    "pa55word-in-an-address": "http://user:{}@example.org/v1",
}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_is_interpolated_by_a_shell():
    shells = [
        (path, ast.unparse(node)[:80])
        for path, node in CALLS
        if called(node) in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn")
        or any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords)
    ]
    assert not shells


def test_programs_are_started_with_lists_of_arguments():
    starts = [(path, node) for path, node in CALLS if called(node) in ("subprocess.run", "subprocess.Popen")]
    assert len(starts) >= 5
    for path, node in starts:
        text = isinstance(node.args[0], ast.JoinedStr) or isinstance(getattr(node.args[0], "value", None), str)
        assert not text, (path, ast.unparse(node)[:80])


def test_yaml_is_read_by_safe_loaders_only():
    harmless = ("yaml.safe_dump", "yaml.YAMLError", "yaml.constructor.ConstructorError")
    reads = [(path, called(node)) for path, node in CALLS if called(node).startswith("yaml.")]
    others = [(path, name) for path, name in reads if name not in harmless]
    assert {path for path, _ in others} <= {"symmlib/serving/accuracy_task.py", "scripts/kill_and_resume.py"}
    assert {name for _, name in others} == {"yaml.safe_load"}  # of files that are not of anybody else's making
    for loader in (None, _Loader):
        with pytest.raises(yaml.YAMLError):
            safe_yaml.parse("!!python/object/apply:os.getcwd []", loader)


LEVELS = ", ".join(f"&x{n + 1} [{', '.join([f'*x{n}'] * 9)}]" for n in range(9))
BOMBS = {
    "aliases of aliases": f"[&x0 [lol], {LEVELS}]",
    "an alias of itself": "&x [*x]",
    "brackets without end": "[" * 200_000,
    "steps without end": "- " * 100_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("where", ["name: {}", "name: x\nparameters: {{04_serving: {{arms: {}}}}}"])
def test_a_few_lines_of_yaml_that_stand_for_billions_are_refused_at_once(bomb, where, tmp_path):
    """In a profile, and in the params.yaml of a run that somebody sent, which costs the list of runs nothing."""
    text = where.format(BOMBS[bomb])
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.yaml is no YAML file"):
        profiles.load(tmp_path / "x.yaml")
    run = tmp_path / "reports" / "runs" / "20261123T221005Z-x-1a2b3c4d"
    write_text(run / "manifest.json", "{}")
    write_text(run / "params.yaml", text)
    assert run.name in make_index(tmp_path / "reports").read_text()
    contents.read(run)


def test_nothing_that_was_written_is_unpickled_or_evaluated():
    loads = (
        "pickle.load",
        "pickle.loads",
        "torch.load",
        "marshal.loads",
        "joblib.load",
        "exec",
        "numpy.load",
        "np.load",
    )
    assert not [(path, called(node)) for path, node in CALLS if called(node) in loads]
    evals = {(path, ast.unparse(node.args[0])) for path, node in CALLS if called(node) == "eval"}
    # The annotations of the shipped notebooks' own parameters, with types as the only names.
    assert evals <= {("symmlib/notebooks.py", "ast.unparse(node.annotation)")}


@pytest.mark.parametrize("secret", TOKENS)
def test_a_secret_in_the_command_line_gets_into_no_file(secret, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["symmlib", "run", "x", *TOKENS[secret].format(secret).split()])
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "Known-by-its-variable")
    run = Run.create(Profile("x", "", {"01_environment": {}}), tmp_path)
    with pytest.raises(SymmlibError), run.step("04_serving", {}):
        # As a server's log ends, which an error quotes.
        said = TOKENS[secret].format(secret)
        raise SymmlibError(f"the server ended. The end of the log:\nargs: {said}\nwith Known-by-its-variable here")
    run.finish()
    make_report(run.path)
    make_index(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"manifest.json", "04_serving.failure.json", "index.html"} <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert secret not in text and "Known-by-its-variable" not in text, path
    assert "[redacted]" in (run.path / "manifest.json").read_text()
    assert "the server ended" in (run.path / "04_serving.failure.json").read_text()


@pytest.mark.parametrize("secret", TOKENS)
def test_a_secret_in_a_log_or_a_copy_of_parameters_is_not_published(secret, tmp_path):
    run = Run.create(Profile("x", "", {"01_environment": {}}), tmp_path / "reports")
    said = TOKENS[secret].format(secret)
    cell = {"cell_type": "code", "source": "1", "metadata": {}, "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": f"{said}\n"}]}  # fmt: skip
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    write_text(run.raw / "serving" / "server.log", f"INFO args: {said}\n")
    write_text(run.raw / "serving" / "commands.txt", f"vllm serve x {said}\n")
    write_text(run.path / "params.yaml", f"name: x\nparameters: {{}}\n# {said}\n")
    write_text(run.notebooks / "01_environment.ipynb", json.dumps(notebook))
    run.finish()
    publish(tmp_path / "reports", tmp_path / "site")
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert {"server.log", "commands.txt", "params.yaml", "manifest.json"} <= {path.name for path in files}
    assert not [path for path in files if secret in path.read_text(encoding="utf-8")]


def test_what_surrounds_a_secret_stays_what_it_was():
    data = {"argv": ["symmlib", "--api-key", "S3cr3t-of-nobody-else", "--max-num-seqs", "64"], "files": {"x": 1}}
    kept = without_secrets(data)
    assert kept == {**data, "argv": ["symmlib", "--api-key", "[redacted]", "--max-num-seqs", "64"]}
    # A number in the place of a secret: JSON with a bare word in it would be none.
    assert without_secrets({"api_key": 123456789012, "why": "hf_AbCdEfGhIjKlMnOpQrSt"})["why"] == "[redacted]"
    plain = {"files": {"raw/x": 3}, "reason": "", "steps": {"a": {"status": "ok", "ended": None}}}
    assert without_secrets(plain) is plain


@pytest.mark.parametrize("secret", TOKENS)
def test_the_environment_in_the_manifest_is_an_allow_list_without_secrets(secret, monkeypatch):
    monkeypatch.setenv("VLLM_EXTRA", TOKENS[secret].format(secret))
    for name in ("HF_TOKEN", "VLLM_API_KEY", "NCCL_PASSWORD", "AWS_SECRET_ACCESS_KEY", "SOMETHING_ELSE", "HOME"):
        monkeypatch.setenv(name, "plain")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert provenance.environment()["NCCL_DEBUG"] == "INFO"
    assert "plain" not in provenance.environment().values()
    assert not [value for value in provenance.environment().values() if secret in value]


@pytest.mark.parametrize("secret", TOKENS)
def test_arguments_for_servers_that_hold_a_secret_are_refused_without_saying_it(secret):
    arguments = TOKENS[secret].format(secret).split() if secret[0] in "S" else ["--x", TOKENS[secret].format(secret)]
    said = secret_in(arguments)
    assert said and secret not in said


def test_the_servers_command_keeps_it_to_this_machine_and_its_environment_has_a_key_that_no_command_shows():
    experiment = ServingExperiment(arms=["gloo", "router"])
    argv = server.command(experiment, Model("tiny", True, True), experiment.arms[0], 2, 8000, "cpu")
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert json.loads(argv[argv.index("--allowed-origins") + 1]) == []
    env = server.environment(Model("tiny", True, True), Arm.of("gloo"), 2, "cuda", trace=Path("trace"))
    assert env["VLLM_API_KEY"] == access.KEY and len(access.KEY) >= 32
    assert env["VLLM_HOST_IP"] == "127.0.0.1" and env["GLOO_SOCKET_IFNAME"] == "lo"
    assert access.KEY not in server.shell(argv, env)


@pytest.mark.parametrize(
    "argument",
    ["--hos=0.0.0.0", "--host", "--allowed-origins", "--allowed_origins", "--allowed-orig", "--uds", "--config=x.yaml",
     "--allow-credentials", "--port", "--por=1"],
)  # fmt: skip
def test_a_profile_cannot_open_a_server_by_an_option_or_its_beginning(argument):
    """vLLM takes `--hos` for `--host`."""
    with pytest.raises(SymmlibError, match="must not set"):
        ServingExperiment(server_args=[argument, "x"])
    with pytest.raises(SymmlibError, match="must not set"):
        Arm.of({"all_reduce": "router", "server_args": [argument, "x"]})


@pytest.mark.parametrize("name", ["VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "VLLM_API_KEY"])
def test_a_profile_cannot_open_a_server_by_a_variable(name):
    with pytest.raises(UsageError, match=f"must not set {name}"):
        Arm.of({"all_reduce": "router", "environment": {name: "0.0.0.0"}})


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", " =1"])
def test_no_arm_is_called_what_a_spreadsheet_would_compute(name):
    """Its name is written into tables, which people open in spreadsheets."""
    with pytest.raises(UsageError, match="formula"):
        Arm.of({"name": name, "all_reduce": "router"})


def test_the_key_is_another_in_each_process():
    code = "from symmlib.serving.access import KEY; print(KEY)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert len(other) >= 32 and other != access.KEY


def test_locks_lie_in_a_directory_that_is_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = os.umask(0)
    try:
        with claim.alone(["cpu"], tmp_path / "raw", "a test"):
            place = tmp_path / f"symmlib-{os.getuid()}"
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
            assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    finally:
        os.umask(old)


@pytest.mark.parametrize("trap", ["a link to a directory", "a file", "a directory that others may write"])
def test_a_lock_directory_that_somebody_else_prepared_is_refused(trap, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = tmp_path / f"symmlib-{os.getuid()}"
    if trap == "a file":
        place.write_text("")
    elif trap == "a link to a directory":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(SymmlibError, match="this user's alone"), claim.alone(["cpu"], tmp_path / "raw", "a test"):
        pass


def plant(trap: str, run: Path, elsewhere: Path) -> None:
    """Put into `run` what leads to the directory `elsewhere`, or nowhere."""
    (run / trap).parent.mkdir(parents=True, exist_ok=True)
    if (run / trap).is_dir():
        shutil.rmtree(run / trap)
    (run / trap).unlink(missing_ok=True)
    if trap == "params.yaml":
        os.mkfifo(run / trap)
    else:
        aim = {".ipynb": elsewhere / "x.ipynb", ".log": elsewhere / "new.log"}
        (run / trap).symlink_to(aim.get(Path(trap).suffix, elsewhere / "new" if trap[0] == "." else elsewhere))


@pytest.mark.parametrize(
    "trap",
    ["notebooks", "results", "raw/serving", "notebooks/01_environment.ipynb", "raw/notebooks/02_allreduce.log",
     ".executing", "results/deep/er", "params.yaml"],
)  # fmt: skip
def test_links_out_of_a_run_and_pipes_in_it_are_refused_and_what_they_lead_to_stays_as_it_was(trap, tmp_path):
    run = Run.create(Profile("x", "", {"01_environment": {}}), tmp_path / "reports")
    run.finish()
    elsewhere = tmp_path / "elsewhere"
    write_text(elsewhere / "x.ipynb", '{"cells": [], "secret": 1}')
    plant(trap, run.path, elsewhere)
    for use in (make_report, Run.open, contents.read):
        with pytest.raises(UsageError, match="(a link that leads out of the run|a pipe)"):
            use(run.path)
    assert "link that leads out" in (page := make_index(tmp_path / "reports").read_text()) or "a pipe" in page
    with contextlib.suppress(UsageError):  # which says what it could not copy
        publish(tmp_path / "reports", tmp_path / "site")
    assert not [path for path in (tmp_path / "site").rglob("*") if path.is_file() and "secret" in path.read_text()]
    assert [path.name for path in elsewhere.iterdir()] == ["x.ipynb"]
    assert (elsewhere / "x.ipynb").read_text() == '{"cells": [], "secret": 1}'


def test_links_inside_a_run_are_nobodys_harm(tmp_path):
    run = Run.create(Profile("x", "", {"01_environment": {}}), tmp_path / "reports")
    (run.raw / "same").symlink_to(run.path / "params.yaml")
    (run.raw / "itself").symlink_to("itself")
    make_report(Run.open(run.path).path)


def test_nothing_is_written_through_a_link_that_waits_in_a_files_place(tmp_path):
    write_text(tmp_path / "elsewhere", "kept")
    for name in ("x", f".x.{os.getpid()}"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
        write_text(tmp_path / "x", "new")
        assert (tmp_path / "elsewhere").read_text() == "kept"
        assert (tmp_path / "x").read_text() == "new" and not (tmp_path / "x").is_symlink()


def test_the_host_communicators_memory_has_no_name():
    """So there is none to guess; what nobody can open by name, others can reach only as the same user, by /proc."""
    opened = {called(node) for path, node in CALLS if path == "symmlib/communicators/host.py"}
    assert "os.memfd_create" in opened and not {name for name in opened if "SharedMemory" in name or "shm_" in name}


def test_every_test_that_the_page_names_is_there():
    page = (ROOT.parent / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = [path.read_text(encoding="utf-8") for path in (ROOT.parent / "tests").rglob("test_*.py")]
    assert len(named) > 10
    assert not [name for name in named if not any(f"def {name}(" in text for text in tests)]
    assert not [path for path in re.findall(r"`(tests/[\w/]+\.py)`", page) if not (ROOT.parent / path).is_file()]
