"""Disks and memory that are full or cannot be written, and places that somebody else holds or has left."""

import fcntl
import os
import subprocess
import sys

import pytest

from symmlib.errors import UsageError
from symmlib.serving import claim
from tests.waiting import PATIENCE_S

SOME = ("allreduce", "--launches", "1", "--backends", "gloo,host/one_shot", "--sizes", "512B,1KiB,4KiB")
BENCHMARK = "all-reduce benchmark"

HOLDER = """
import sys, time
from pathlib import Path
from symmlib.serving import claim
with claim.alone(["cpu"], Path(sys.argv[1]), "run one"):
    print("held", flush=True)
    time.sleep(600)
"""
LOCKING = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX)"


@pytest.mark.fault("the disk is full", BENCHMARK)
def test_a_disk_that_fills_up_ends_the_measurement_and_says_so(fault, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=64k none {small}"
    running = fault.with_mount(mount, *SOME, "--out", small / "out", keep=small / "out")
    assert running.wait(PATIENCE_S) == 1, fault.said()
    said = fault.said()
    assert "No space left on device" in said
    last = said[said.rindex("symmlib: ") :]
    assert "symmlib/cli" not in last, "the command itself broke: only a rank's log may be quoted here"
    kept = sorted(path.name for path in (tmp_path / "kept").rglob("*") if path.is_file())
    fault.saw(last, 1, f"what the ranks had written: {', '.join(kept)}")


@pytest.mark.fault("the output cannot be written (read-only)", BENCHMARK)
def test_a_read_only_place_is_refused_before_anything_runs(fault, tmp_path):
    place = tmp_path / "read-only"
    place.mkdir()
    running = fault.with_mount(f"mount -t tmpfs -o ro none {place}", *SOME, "--out", place / "out")
    assert running.wait(PATIENCE_S) == 2, fault.said()
    assert "Read-only file system" in fault.said()
    fault.saw(fault.said(), 2, "nothing was begun")


@pytest.mark.fault("/dev/shm is full", BENCHMARK)
def test_full_shared_memory_costs_only_the_backends_that_need_its_names(fault, tmp_path):
    mount = "mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/full"
    running = fault.with_mount(mount, *SOME, "--out", tmp_path / "out")
    assert running.wait(PATIENCE_S) == 0, fault.said()
    fault.saw("none: host/* use anonymous memory (memfd), gloo uses sockets", 0, "everything")


@pytest.mark.fault("two runs at once", BENCHMARK)
def test_a_second_measurement_into_one_directory_is_refused(fault, tmp_path):
    raw = tmp_path / "out" / "raw" / "allreduce"
    first = fault.start(
        "allreduce", "--sizes", "16MiB", "--backends", "gloo", "--launches", "50", "--out", tmp_path / "out"
    )
    fault.until(lambda: (raw / "launch-1.log").exists(), "the first one to measure", first)
    second = fault.start(*SOME, "--out", tmp_path / "out", log=tmp_path / "second")
    assert second.wait(PATIENCE_S) == 2
    said = (tmp_path / "second").read_text()
    assert "another measurement writes to" in said
    assert first.poll() is None  # it was not disturbed
    first.terminate()
    first.wait(PATIENCE_S)
    fault.saw(said, 2, "the first one goes on")


@pytest.mark.fault("a stale lock of a dead run", "serving")
def test_a_lock_file_of_a_dead_run_holds_nothing(fault, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "a")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    holder = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    refused = pytest.raises(UsageError, match="the CPU serves run one")
    with refused as caught, claim.alone(["cpu"], tmp_path / "b", "run two"):
        pass
    holder.kill()
    holder.wait()
    with claim.alone(["cpu"], tmp_path / "b", "run two"):
        assert (tmp_path / f"symmlib-{os.getuid()}" / "cpu.lock").read_text().startswith("run two")
    fault.saw(f"while it lives: {caught.value}", 2, "the next run starts at once when it is dead")


@pytest.mark.fault("a stale lock of a dead run", BENCHMARK)
def test_a_directory_whose_measurement_died_is_measured_into(fault, tmp_path):
    raw = tmp_path / "out" / "raw" / "allreduce"
    raw.mkdir(parents=True)
    (raw / "launch-1.csv").write_text("half a li")
    subprocess.run([sys.executable, "-c", LOCKING, raw], check=True)
    assert fault.start(*SOME, "--out", tmp_path / "out").wait(PATIENCE_S) == 0, fault.said()
    fault.saw("none", 0, "the new one's results; half results of the dead one are gone")
    directory = os.open(raw, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(directory)
