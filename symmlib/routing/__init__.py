"""Which all-reduce serves which message size: tables on file, tables from measurements, and the router that obeys them.

Names in `LATER` are imported on first use, so that tables can be read without torch and routed by without pandas.
"""

from importlib import import_module

from symmlib.routing.table import Route, RoutingTable, Table

LATER = {"Router": "router", "Decision": "router", "show": "listing", "compare": "listing", "costs": "listing"}

__all__ = ["Decision", "Route", "Router", "RoutingTable", "Table", "compare", "costs", "show"]


def __getattr__(name: str):
    if name in LATER:
        return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
