"""The noise floor of a serving experiment: what two equal arms showed on this machine under the same load.

`symmlib serve --aa` measures it; `run` looks here for the newest one that fits before it says what counts as a change.
"""

import json
from pathlib import Path

import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.analysis.serving import TIERS
from symmlib.provenance import cpu, gpus
from symmlib.runs import default_reports_dir, digest, write_csv
from symmlib.serving import claim
from symmlib.serving.experiment import ServingExperiment

FLOOR = "noise_floor.csv"
_LOAD = (
    "model", "tp", "qps", "duration_s", "input_len", "output_len", "prefix_len", "max_model_len", "server_args",
    "one_gpu",
)  # fmt: skip


def load_key(experiment: ServingExperiment, kind: str) -> str:
    """What two experiments have in common if one's noise is the other's: machine, model and load, not the arms."""
    fields = experiment.as_dict()
    if kind == "cuda":
        used = claim.devices(kind, one_gpu=True) if experiment.one_gpu else [""]  # of a node, all that it has
        machine = [gpu.get("name") for one in used for gpu in gpus(one) or gpus()]
    else:
        machine = [cpu()["model"], cpu()["cores"]]
    fields |= {"qps": [float(qps) for qps in experiment.qps], "duration_s": float(experiment.duration_s)}
    return digest([kind, machine, *(fields[name] for name in _LOAD)])


def measured(comparison: pd.DataFrame, source: str, results: Path) -> None:
    """Keep what an A/A experiment says in `results`."""
    write_csv(results / FLOOR, analysis.noise_floor(comparison).assign(source=source))


def find(experiment: ServingExperiment, kind: str, raw: Path) -> pd.DataFrame | None:
    """The newest floor for this load on this machine: of the runs beside `raw`'s, or in the project's reports."""
    key = load_key(experiment, kind)
    places = dict.fromkeys([raw.resolve().parents[2], default_reports_dir().resolve() / "runs"])
    notes = [note for place in places for note in place.glob("*/raw/serving/experiment.json")]
    found: list[tuple[str, pd.DataFrame]] = []
    for note in notes:
        try:
            said = json.loads(note.read_text(encoding="utf-8"))
            if said.get("is_a_a") and said.get("load_key") == key:
                floor = pd.read_csv(note.parents[2] / "results" / FLOOR)
                if len(floor) and floor["blocks"].min() >= TIERS["quick"]:  # fewer give no verdict, and bound none
                    found.append((str(said.get("at", "")), floor))
        except (OSError, ValueError, AttributeError, KeyError):
            continue  # damaged, or of another version: as if it were not there
    return max(found, key=lambda one: one[0])[1] if found else None
