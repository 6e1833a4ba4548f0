"""A run's manifest, read for the report: whole and well-typed, whatever of it is missing or odd."""

import json
from pathlib import Path

from symmlib.errors import UsageError

EMPTY_MANIFEST = dict(status="running", profile="", argv=[], started=None, ended=None, reason="", topology="")
EMPTY_MANIFEST |= dict(profile_hash="", git={}, versions={}, hardware={}, environment={}, steps={})


def read_manifest(path: Path) -> dict:
    """The manifest of the run in `path`; raises `UsageError` if there is none that can be read."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} is no run's directory: it has no manifest.json.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path / 'manifest.json'}: {error}.") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("steps", {}), dict):
        raise UsageError(f"{path / 'manifest.json'} holds no manifest.")
    return _well_typed({**EMPTY_MANIFEST, "run_id": path.name, **manifest})


def _well_typed(manifest: dict) -> dict:
    """`manifest` with every field of a wrong type replaced by the empty one."""
    for key, empty in {**EMPTY_MANIFEST, "run_id": ""}.items():
        wanted = str if empty is None else type(empty)
        if not isinstance(manifest[key], wanted) and manifest[key] is not None or manifest[key] is None is not empty:
            manifest[key] = empty
    hardware = manifest["hardware"]
    cpu, gpus = hardware.get("cpu"), hardware.get("gpus")
    cpu = {**cpu} if isinstance(cpu, dict) else {}
    memory = cpu.pop("memory_bytes", None)
    cpu = {name: str(value) for name, value in cpu.items() if value is not None}
    if isinstance(memory, int) and 0 < memory < 1 << 62:
        cpu["memory_bytes"] = memory
    gpus = [gpu for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []
    manifest["hardware"] = {**hardware, "cpu": cpu, "gpus": [{k: str(v) for k, v in gpu.items()} for gpu in gpus]}
    if not isinstance(manifest["git"].get("revision"), str):
        manifest["git"] = {}
    steps = manifest["steps"].items()
    manifest["steps"] = {name: record if isinstance(record, dict) else {} for name, record in steps}
    return manifest
