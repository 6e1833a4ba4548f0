"""Search for inputs that break what tests/fuzz/properties.py says of every reader, led by coverage (by Atheris).

    .venv/bin/python -m pip install -r requirements/fuzz.txt      # optional: nothing else needs it
    .venv/bin/python scripts/fuzz.py --seconds 600                # shared out among all properties
    .venv/bin/python scripts/fuzz.py --seconds 60 routing_table   # or one or some of them, by name

Hypothesis turns the fuzzer's bytes into documents (`fuzz_one_input`), so structures change rather than letters. What
was found interesting is kept in `--corpus` and searched from the next time. A finding is printed once for each place in
the code that it comes from, with its value, and the search goes on; the exit status is 1 if there was one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENOUGH = 20  # different findings of one property; its reader needs mending before more are worth reading


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PROPERTY", help="by default all but those that draw figures")
    parser.add_argument("--seconds", type=int, default=300, help="for all of them together (default 300)")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".fuzz", metavar="DIR", help="default: .fuzz/")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process is one property's
    arguments = parser.parse_args()
    if arguments.one:
        search(arguments.names[0], arguments.seconds, arguments.corpus)
    names = arguments.names or names_of_properties()
    total = {"executions": 0, "findings": 0}
    for name in names:
        seconds = max(1, arguments.seconds // len(names))
        command = [sys.executable, __file__, name, "--one", "--seconds", str(seconds)]
        # libFuzzer ends its process when the time is over, so each property has one of its own.
        ended = subprocess.run([*command, "--corpus", str(arguments.corpus)], stderr=subprocess.PIPE, text=True)
        try:
            said = json.loads((arguments.corpus / f"{name}.json").read_text())
        except (OSError, ValueError):
            said = {"executions": 0, "seconds": 0, "findings": 1}
            print(ended.stderr[-2000:])
        covered = re.findall(r"\bcov: (\d+)", ended.stderr)[-1:]
        print(
            f"{name}: {said['executions']} inputs in {said['seconds']} s, {said['findings']} findings, "
            f"{covered[0] if covered else 'unknown'} places of the code reached",
            flush=True,
        )
        total = {key: total[key] + said[key] for key in total}
    print(f"all: {total['executions']} inputs, {total['findings']} findings")
    return 1 if total["findings"] else 0


def names_of_properties() -> list[str]:
    sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
    from properties import PROPERTIES

    return [name for name, found in PROPERTIES.items() if found.examples > 10]


def search(name: str, seconds: int, corpus: Path) -> None:
    """Search one property's inputs for `seconds`; ends the process."""
    try:
        import atheris
    except ImportError:
        sys.exit("Atheris is not installed: .venv/bin/python -m pip install -r requirements/fuzz.txt")
    sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
    with atheris.instrument_imports(include=["symmlib", "tomllib", "yaml"]):
        import properties
    from hypothesis import HealthCheck, given, settings

    found: dict[str, str] = {}
    record, began = corpus / f"{name}.json", time.monotonic()
    counted = {"executions": 0}

    def note() -> None:
        took = round(time.monotonic() - began)
        record.write_text(json.dumps({**counted, "seconds": took, "findings": len(found)}))

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(properties.PROPERTIES[name].strategy)
    def check(value):
        counted["executions"] += 1
        try:
            properties.holds(name, value)
        except Exception as error:
            place = _place(error)
            if place not in found:
                found[place] = repr(value)
                print(f"\n{name}: {type(error).__name__}: {error}\n  at {place}\n  of {value!r:.1500}", flush=True)
        if counted["executions"] % 20 == 0 or len(found) >= ENOUGH:
            note()
        if len(found) >= ENOUGH:
            os._exit(0)

    (corpus / name).mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    libfuzzer = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=4096", "-max_len=4096", "-len_control=10"]
    libfuzzer += ["-verbosity=1", f"-artifact_prefix={corpus / name}-", str(corpus / name)]
    atheris.Setup([sys.argv[0], *libfuzzer], check.hypothesis.fuzz_one_input)
    atheris.Fuzz()


def _place(error: BaseException) -> str:
    """Where in the suite an error comes from: its type, and the innermost line of symmlib or of the property."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename]
    here = [frame for frame in frames if ".venv" not in frame.filename][-1]
    return f"{type(error).__name__} {Path(here.filename).relative_to(ROOT)}:{here.lineno}"


if __name__ == "__main__":
    sys.exit(main())
