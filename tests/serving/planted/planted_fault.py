"""A broken all-reduce, for tests alone: every 50th call sums without one rank's contribution.

vLLM finds it as a plug-in where this directory is on PYTHONPATH; no switch of symmlib leads here.
"""

EVERY = 50
LOST_RANK = 1


def register() -> None:
    import torch
    import torch.distributed as dist

    from symmlib.routing.router import Router

    if hasattr(Router, "planted_calls"):
        return  # vLLM may load plug-ins more than once in a process
    Router.planted_calls = 0
    sound = Router.all_reduce

    def all_reduce(self, tensor, *, out=None):
        Router.planted_calls += 1
        lost = Router.planted_calls % EVERY == 0 and dist.get_rank() == LOST_RANK
        return sound(self, torch.zeros_like(tensor) if lost else tensor, out=out)

    Router.all_reduce = all_reduce
