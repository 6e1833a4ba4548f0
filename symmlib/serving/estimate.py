"""How long an experiment takes: before it begins, and, from what its servers have taken, while it runs."""

from symmlib.serving import load
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.turns import Turn

# For a server to start: seen with the tiny model, with 70B weights from a disk, and with random ones of 8B on one H200
# for all but the first of each arm and TP, which may compile for a minute.
READY_S = {"cpu": 30, "cuda": 180, "one GPU": 45}
AROUND_S = 8  # of greedy prompts, answers after the last request, and the server's end


def server_s(experiment: ServingExperiment, kind: str) -> float:
    """One server, from the end of the one before."""
    return ready_s(experiment, kind) + load_s(experiment)


def ready_s(experiment: ServingExperiment, kind: str) -> int:
    """Its start."""
    return READY_S["one GPU" if experiment.one_gpu else kind]


def load_s(experiment: ServingExperiment) -> float:
    """What it is asked, with what is around that."""
    return load.warmup_s(experiment) + len(experiment.qps) * experiment.duration_s + AROUND_S


class Estimate:
    """What is known while an experiment runs. `kind`: "cpu" or "cuda"."""

    def __init__(self, experiment: ServingExperiment, kind: str):
        self._expected_s = server_s(experiment, kind)
        self._took_s: dict[tuple, float] = {}  # by TP and arm, the latest last

    @property
    def is_measured(self) -> bool:
        """Whether a server of this experiment has told how long one takes."""
        return bool(self._took_s)

    def took(self, turn: Turn, seconds: float) -> None:
        """The server of `turn` took so long."""
        self._took_s.pop((turn.tp, turn.arm.name), None)
        self._took_s[turn.tp, turn.arm.name] = seconds

    def of(self, *turns: Turn) -> float:
        """Seconds that the servers of `turns` will take: each as long as the last of its TP and arm, else as the last
        of all, else as expected."""
        latest = next(reversed(self._took_s.values()), self._expected_s)
        return sum(self._took_s.get((turn.tp, turn.arm.name), latest) for turn in turns)
