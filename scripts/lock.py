"""Note the hashes of what requirements/constraints-*.txt pin, so that set-up takes these very files and no others.

    python scripts/lock.py cpu gpu bootstrap      # from the project's root; after scripts/pin.py, or a changed pin

Writes requirements/hashes-<stack>.txt: the wheels that pip chooses on Linux x86_64 for Python 3.11 and 3.12. Only pins
that no such file has are asked for, by pip itself, which downloads little. Left out is torch on the CPU stack: its
CPU builds come from wherever pip's configuration says, in several builds of one version.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path("requirements")
PYTHONS = ("3.11.9", "3.12.9")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
UNHASHED = {"cpu": {"torch"}, "gpu": set(), "bootstrap": set()}
HEADING = "# Hashes for Python 3.11 and 3.12 on Linux x86_64. Written by scripts/lock.py.\n"


def main(stacks: list[str]) -> None:
    for stack in stacks:
        path = REQUIREMENTS / f"hashes-{stack}.txt"
        known = {pin: found for file in REQUIREMENTS.glob("hashes-*.txt") for pin, found in hashes(file).items()}
        pins = [pin for pin in pinned(stack) if pin.split("==")[0] not in UNHASHED[stack]]
        missing = [pin for pin in pins if pin not in known]
        for python in PYTHONS if missing else ():
            for pin, sha256 in ask(missing, python).items():
                known.setdefault(pin, set()).add(sha256)
        lines = [" ".join([pin, *(f"--hash=sha256:{one}" for one in sorted(known[pin]))]) for pin in pins]
        path.write_text(HEADING + "\n".join(lines) + "\n")
        print(f"{path}: {len(lines)} pins, {len(missing)} of them new")


def pinned(stack: str) -> list[str]:
    """The lines `name==version` that a stack's constraints have."""
    name = "bootstrap.txt" if stack == "bootstrap" else f"constraints-{stack}.txt"
    return [line for line in (REQUIREMENTS / name).read_text().splitlines() if "==" in line and line[0] != "#"]


def hashes(path: Path) -> dict[str, set[str]]:
    """The hashes in a file that `main` wrote, by pin; empty where there is none yet."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = {line.split()[0]: line.split()[1:] for line in lines if not line.startswith("#")}
    return {pin: {option.removeprefix("--hash=sha256:") for option in options} for pin, options in found.items()}


def ask(pins: list[str], python: str) -> dict[str, str]:
    """By pin, the sha256 of the file that pip would install for the version `python`."""
    with tempfile.TemporaryDirectory() as directory:
        wanted, report = Path(directory) / "wanted.txt", Path(directory) / "report.json"
        wanted.write_text("\n".join(pins) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
        command += ["--prefer-binary", "--python-version", python, "--implementation", "cp"]
        command += [option for platform in PLATFORMS for option in ("--platform", platform)]
        command += ["--target", str(Path(directory) / "nowhere"), "--report", str(report), "-r", str(wanted)]
        subprocess.run(command, check=True)
        found = json.loads(report.read_text())["install"]
    by_name = {_normal(entry["metadata"]["name"]): entry["download_info"]["archive_info"] for entry in found}
    return {pin: by_name[_normal(pin.split("==")[0])]["hashes"]["sha256"] for pin in pins}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main(sys.argv[1:] or sorted(UNHASHED))
