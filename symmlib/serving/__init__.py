"""End-to-end serving: a real vLLM server per arm and block under the same load, and what the arms' latencies say.

`run_experiment(ServingExperiment(...), out)` is the whole of it; the notebook 04_serving and `symmlib serve` call it.
`table_for(run, experiment)` is the routing table that a notebook's servers obey.
`predict(out)` lays beside its differences what the all-reduce alone explains; an experiment does so after every server.
"""

from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.prediction import predict
from symmlib.serving.routing_table import table_for
from symmlib.serving.run import run_experiment

__all__ = ["ServingExperiment", "predict", "run_experiment", "table_for"]
