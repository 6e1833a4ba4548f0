"""symmlib measures the all-reduces of an inference node, derives which to use at which size, and makes vLLM use them.

The public names are `Router`, `RoutingTable`, `SymmMemCommunicator` and `HostCommunicator`. They load on first use, so
that a report or a table can be read on a machine without torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "Router": "symmlib.routing.router",
    "RoutingTable": "symmlib.routing.table",
    "SymmMemCommunicator": "symmlib.communicators.symm_mem",
    "HostCommunicator": "symmlib.communicators.host",
}
__all__ = [*_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'symmlib' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
