"""The status that is updated in place: on a real terminal, in a real kernel, in a log, and from one to the other."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from symmlib import live, progress
from tests.waiting import PATIENCE_S

COLUMNS = 80

# What a notebook does for a while: it counts, says a line, and then waits for the file GO. In short sleeps: one call
# that waits for ever, as opening a fifo does, would miss a Ctrl-C that came just before it.
COUNTS = """
import time
from pathlib import Path
from symmlib.live import live
from symmlib.progress import say
with live() as status:
    for done in range(29):
        status.update(f"block 2 of 3, router: {done} of 28 requests", left_s=95)
    say("a line meanwhile")
    status.update("block 2 of 3, router: all requests", left_s=9)
    while not Path(GO).exists():
        time.sleep(0.05)
"""

EXECUTES = """
import sys
from pathlib import Path
from symmlib import live, notebooks
from symmlib.profiles import Profile
from symmlib.runs import Run
live._Log.every_s = 0
notebooks.DIRECTORY = Path(sys.argv[1])
run = Run.create(Profile("mine", "a test's", {"01_mine": {}}), Path(sys.argv[1]) / "reports")
notebooks.execute(run, "01_mine", {})
print(run.notebooks)
"""


class Terminal:
    """A pseudo-terminal of COLUMNS columns with a program on it, and what a person sees there."""

    def __init__(self, script: str, *arguments):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        take = "import os; os.open(os.ttyname(0), os.O_RDWR)\n"  # which makes it the one that sends Ctrl-C's signal
        self.process = subprocess.Popen(
            [sys.executable, "-c", take + script, *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env={**os.environ, "TERM": "xterm"},
            # Tests that a shell runs in its background ignore Ctrl-C and hand that on; a user's terminal does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(slave)
        self.written = ""

    def read_until(self, text: str | None) -> str:
        """What was written up to `text`, or with None up to the program's end."""
        while text is None or text not in self.written:
            try:
                self.read_more()
            except OSError:  # nobody holds the other side any more
                assert text is None, self.written
                break
        return self.written

    def read_more(self) -> None:
        assert select.select([self._master], [], [], PATIENCE_S)[0], self.written
        self.written += os.read(self._master, 1 << 16).decode()

    def read_until_it_shows(self, *beginnings: str) -> None:
        """Until rows with these beginnings, times left out, are what a person sees."""
        while True:
            rows = without_clock(self.screen())
            if len(rows) == len(beginnings) and all(map(str.startswith, rows, beginnings)):
                return
            try:
                self.read_more()
            except OSError:
                raise AssertionError(f"it ended, and showed {rows}") from None

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def screen(self) -> list[str]:
        rows, column = [""], 0
        for piece in re.findall(r"\x1b\[K|[\r\n]|[^\x1b\r\n]+", self.written):
            if piece == "\r":
                column = 0
            elif piece == "\n":
                rows.append("")
            elif piece == "\x1b[K":
                rows[-1] = rows[-1][:column]
            else:
                rows[-1] = rows[-1][:column] + piece + rows[-1][column + len(piece) :]
                column += len(piece)
        return [row for row in rows if row]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def on_terminal():
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(contextlib.closing(Terminal(*arguments)))


@pytest.fixture
def go(tmp_path) -> Path:
    """What COUNTS waits for."""
    return tmp_path / "go"


def counts(go: Path) -> str:
    return COUNTS.replace("GO", repr(str(go)))


@pytest.fixture
def clock(monkeypatch):
    """Sets the time, in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def notebook(directory: Path, *cells: str) -> nbformat.NotebookNode:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}
    )
    nbformat.write(made, directory / "01_mine.ipynb")
    return made


def execute(made: nbformat.NotebookNode, client=NotebookClient, **options) -> nbformat.NotebookNode:
    """`made`, executed with a busy machine's patience; output that comes late is an error and not left out."""
    patient = {"startup_timeout": PATIENCE_S, "iopub_timeout": PATIENCE_S, "raise_on_iopub_timeout": True}
    return client(made, kernel_name="python3", **patient, **options).execute()


def without_clock(lines: list[str]) -> list[str]:
    return [re.sub(r"^\[.*?\] ", "", line) for line in lines]


def test_on_a_terminal_lines_stand_above_one_status_that_goes_at_the_end(on_terminal, go):
    terminal = on_terminal(counts(go))
    terminal.read_until("all requests, about 9 s left")
    said, status = without_clock(terminal.screen())
    assert said == "a line meanwhile" and status == "block 2 of 3, router: all requests, about 9 s left"[: len(status)]
    go.touch()
    terminal.read_until(None)
    assert without_clock(terminal.screen()) == ["a line meanwhile"]


def test_on_a_terminal_a_long_status_loses_its_middle(on_terminal):
    script = "from symmlib.live import live\nwith live() as status: status.update('x' * 200, left_s=9); print()"
    written = on_terminal(script).read_until(None)
    assert re.search(r"\r\x1b\[K\[ *[\d:]+\] x+\.\.\.x+, about 9 s left\r?\n", written)
    assert max(map(len, re.split(r"[\r\n]", written))) == len("\x1b[K") + COLUMNS - len("^C") - 1


def test_a_terminal_is_not_flooded(on_terminal):
    terminal = on_terminal(
        "from symmlib.live import live\nwith live() as status:\n for n in range(10_000): status.update(f'{n} requests')"
    )
    assert terminal.read_until(None).count("requests") < 1000


def test_ctrl_c_leaves_the_lines_whole_and_says_where_that_was(on_terminal, go):
    terminal = on_terminal(counts(go))
    terminal.read_until("all requests, about 9 s left")
    terminal.press(b"\x03")
    terminal.read_until(None)
    screen = without_clock(terminal.screen())
    assert screen[:3] == [
        "a line meanwhile", "stopped at: block 2 of 3, router: all requests", "Traceback (most recent call last):"
    ]  # fmt: skip
    assert screen[-1] == "KeyboardInterrupt"


def test_a_terminal_that_was_closed_ends_nothing(monkeypatch):
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.suppress(OSError), open(slave, "w") as stdout:  # what it could not write it tries again at its end
        monkeypatch.setattr(sys, "stdout", stdout)
        with live.live() as status:
            os.close(master)
            status.update("one request")
            progress.say("a line")
            status.update("two requests")
        monkeypatch.undo()


@pytest.mark.parametrize("closed", [False, True], ids=["full", "closed"])
def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch, clock, closed):
    with contextlib.suppress(OSError), open("/dev/full", "w") as stdout:
        if closed:
            stdout.close()
        monkeypatch.setattr(sys, "stdout", stdout)
        with live.live() as status:
            clock(200)
            status.update("one request")
            progress.say("a line")
        monkeypatch.undo()


def test_a_log_has_a_line_now_and_then_and_only_if_something_changed(capsys, clock):
    with live.live() as status:
        status.update("1 of 9 requests")  # at 100 s
        clock(114)
        status.update("2 of 9 requests")
        clock(116)
        status.update("3 of 9 requests", left_s=95)
        clock(140)
        status.update("3 of 9 requests", left_s=95)
        progress.say("a line")
        clock(150)
        status.update("4 of 9 requests")
        clock(156)
        status.update("5 of 9 requests", left_s=-3)
    said = without_clock(capsys.readouterr().out.splitlines())
    assert said == ["3 of 9 requests, about 2 min left", "a line", "5 of 9 requests"]


def test_an_error_in_a_log_is_preceded_by_what_was_running(capsys):
    with pytest.raises(ZeroDivisionError), live.live() as status:
        status.update("1 of 9 requests", left_s=95)
        raise ZeroDivisionError
    assert without_clock(capsys.readouterr().out.splitlines()) == ["stopped at: 1 of 9 requests"]


def test_a_notebook_has_one_output_that_is_replaced(tmp_path, go):
    class Client(NotebookClient):
        def process_message(self, message, *arguments):
            kinds.append(message["msg_type"])
            return super().process_message(message, *arguments)

    kinds = []
    go.touch()
    executed = execute(notebook(tmp_path, counts(go)), Client)
    shown = [output for output in executed.cells[0].outputs if output.output_type == "display_data"]
    assert without_clock([output.data["text/plain"] for output in shown]) == ["block 2 of 3, router: all requests"]
    assert [*shown[0].data] == ["text/plain"]  # what was bold while it ran is a line among others now
    assert kinds.count("display_data") == 1 and 2 <= kinds.count("update_display_data") < 29


def test_in_a_notebook_the_status_stands_above_the_lines(tmp_path):
    cell = "from symmlib import live, progress\nwith live.live() as now:\n    progress.say('first'); now.update('done')"
    executed = execute(notebook(tmp_path, cell))
    shown, said = executed.cells[0].outputs
    assert without_clock([shown.data["text/plain"], said.text.strip()]) == ["done", "first"]


def test_a_notebook_that_stops_says_where(tmp_path):
    cell = "from symmlib.live import live\nwith live() as status:\n    status.update('1 of 9 requests'); 1 / 0"
    executed = execute(notebook(tmp_path, cell), allow_errors=True)
    shown, error = executed.cells[0].outputs
    assert without_clock([shown.data["text/plain"]]) == ["stopped at: 1 of 9 requests"]
    assert error.ename == "ZeroDivisionError"


def test_a_run_on_a_terminal_shows_its_notebooks_status_in_place(on_terminal, tmp_path, go):
    notebook(tmp_path, counts(go))
    terminal = on_terminal(EXECUTES, tmp_path)
    terminal.read_until_it_shows("01_mine: a line meanwhile", "01_mine: block 2 of 3, router: all requests")
    go.touch()
    terminal.read_until(None)
    assert without_clock(terminal.screen())[:1] == ["01_mine: a line meanwhile"]
    assert "block 2 of 3" not in "".join(terminal.screen())


def test_ctrl_c_on_a_run_says_where_its_notebook_was(on_terminal, tmp_path, go):
    notebook(tmp_path, counts(go))
    terminal = on_terminal(EXECUTES, tmp_path)
    terminal.read_until_it_shows("01_mine: a line meanwhile", "01_mine: block 2 of 3, router: all requests")
    terminal.press(b"\x03")
    terminal.read_until(None)
    assert without_clock(terminal.screen())[1].startswith("stopped at: 01_mine: block 2 of 3, router: all requests")


def test_a_run_in_a_log_has_plain_lines_and_the_executed_notebook_only_the_last_status(tmp_path, go):
    notebook(tmp_path, counts(go))
    command = [sys.executable, "-c", EXECUTES, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        while not lines or "all requests" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        go.touch()
        lines += process.stdout.readlines()
    printed = "".join(lines)
    assert process.returncode == 0 and "\r" not in printed and "\x1b" not in printed
    assert sum("all requests" in line for line in lines) == 1
    assert "01_mine: a line meanwhile" in without_clock(printed.splitlines())
    executed = nbformat.read(Path(lines[-1].strip()) / "01_mine.ipynb", as_version=4)
    said, ended = [output for cell in executed.cells for output in cell.outputs]
    assert without_clock(said.text.splitlines()) == ["01_mine: a line meanwhile"]
    assert without_clock([ended.data["text/plain"]]) == ["01_mine: block 2 of 3, router: all requests"]
