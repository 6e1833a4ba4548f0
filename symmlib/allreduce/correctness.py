"""Whether a backend sums right, asked before it is timed: exact integers first, then random numbers against float64.

Every rank makes the inputs of all ranks from the plan's seed, so the expected sums need no communication.
"""

import hashlib
from dataclasses import dataclass

import torch

EXACT_INTEGERS = {torch.bfloat16: 1 << 8, torch.float16: 1 << 11, torch.float32: 1 << 24}  # 2 ** bits of significand
BACK_TO_BACK = 4  # calls without a pause between them, which a backend that reuses a buffer too early gets wrong


@dataclass(frozen=True)
class Sums:
    """Inputs of one rank for one size, and the sums they must give.

    `integers` (this rank's input) and `integer_sum` are in the dtype measured: every partial sum is exact in it, in
    whatever order ranks are added. `noise` is standard normal in that dtype; `noise_sum` is its sum in float64.
    """

    integers: torch.Tensor
    integer_sum: torch.Tensor
    noise: torch.Tensor
    noise_sum: torch.Tensor


def make_sums(numel: int, dtype: torch.dtype, *, rank: int, world_size: int, seed: int, device="cpu") -> Sums:
    """Inputs and expected sums for messages of `numel` elements, on `device`, which must be alike on all ranks."""
    bound = EXACT_INTEGERS[dtype] // world_size
    bound = min(bound, 1 << 10)
    integer_sum = torch.zeros(numel, dtype=torch.float32, device=device)
    noise_sum = torch.zeros(numel, dtype=torch.float64, device=device)
    for other in range(world_size):
        generator = torch.Generator(device).manual_seed(seed * 1009 + other)
        integers = torch.empty_like(integer_sum).random_(-bound, bound + 1, generator=generator)
        noise = torch.empty_like(integer_sum).normal_(generator=generator).to(dtype)
        integer_sum += integers
        noise_sum += noise
        if other == rank:
            mine = integers.to(dtype), noise
    return Sums(mine[0], integer_sum.to(dtype), mine[1], noise_sum)


@dataclass(frozen=True)
class Check:
    """What one rank saw of one backend at one size.

    `wrong`: elements that differ from the exact sum, over all back-to-back calls; `max_abs_error`: largest distance
    from the float64 sum of random inputs; `digest`: hash of the bytes of that result, equal on ranks that agree.
    """

    wrong: int
    max_abs_error: float
    digest: str


def check(backend, sums: Sums) -> Check:
    """Run `backend` on exact and on random inputs; a collective, which every rank calls with its own `sums`.

    Out of place, outputs are poisoned with NaN first, so an element that is never written counts as wrong; an input
    that the backend changes counts as well. The random inputs are summed in place.
    """
    inputs = [sums.integers.roll(shift) for shift in range(BACK_TO_BACK)]
    outputs = [torch.full_like(one, torch.nan) for one in inputs]
    for one, out in zip(inputs, outputs, strict=True):
        if backend.all_reduce(one, out=out) is None:
            raise TypeError("all_reduce returned None instead of the sum")
    wrong = sum(
        differing(out, sums.integer_sum.roll(shift)) + differing(one, sums.integers.roll(shift))
        for shift, (one, out) in enumerate(zip(inputs, outputs, strict=True))
    )
    noise = sums.noise.clone()
    backend.all_reduce(noise, out=noise)
    # What is no number is infinitely far off: `max` over ranks would lose a NaN, whichever comes first.
    error = (noise.double() - sums.noise_sum).abs_().nan_to_num_(nan=torch.inf).max().item()
    return Check(wrong, error, hashlib.blake2b(noise.view(torch.uint8).cpu().numpy().data).hexdigest())


def differing(found: torch.Tensor, expected: torch.Tensor) -> int:
    """Elements of `found` that are not those of `expected`; one that is no number never is."""
    return int(torch.count_nonzero(found != expected))
