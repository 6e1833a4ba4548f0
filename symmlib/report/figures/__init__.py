"""Every figure of the report and the notebooks: tables in, one titled `Figure` out.

Each is a function of DataFrames as the run's files hold them. `Figure.finding` is its title, computed from the data,
`Figure.alt` says the same to those who cannot see it, `Figure.reading` tells how to read it. `compact=True` draws for
a phone: one column of panels, the key above.
"""

from symmlib.report.figures.allreduce import bus_bandwidth, latency
from symmlib.report.figures.distributions import distributions
from symmlib.report.figures.numerics import numerics
from symmlib.report.figures.prediction import predicted_beside_measured
from symmlib.report.figures.published import published_pr20759
from symmlib.report.figures.roofline import roofline
from symmlib.report.figures.routing import held_out, routes
from symmlib.report.figures.serving import effects, ttft_tpot
from symmlib.report.figures.unpaired import unpaired_ratios

__all__ = [
    "bus_bandwidth",
    "distributions",
    "effects",
    "held_out",
    "latency",
    "numerics",
    "predicted_beside_measured",
    "published_pr20759",
    "roofline",
    "routes",
    "ttft_tpot",
    "unpaired_ratios",
]
