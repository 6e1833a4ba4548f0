"""The compiled all-reduce kernels of `host.HostCommunicator`: numba, no interpreter, no lock, no system call but yield.

All ranks map one block of memory. In it every rank owns a *header* (its flag and two signatures) and two *slots* of
data. One operation on one chunk:

    one-shot    copy in -> publish -> wait for all -> sum every rank's slot into the output
    two-shot    copy in -> publish -> wait for all -> sum my slice of every slot into my own slot
                        -> publish -> wait for all -> copy each rank's finished slice to the output

A flag counts what its rank has published and only grows. Chunks use the two slots in turn, and that alone makes them
safe to reuse without a barrier at the end: a rank overwrites a slot two chunks later, and by then it has seen every
peer publish the chunk in between, which a peer does only after it has finished reading this one.

Kernels never wait for ever: after PATIENCE tries they return WAITING with their place kept in the control block, so
that the caller can look for dead peers and signals, and call again to go on.

The LLVM intrinsics that they are made of stand in this file too: numba's cache looks at a kernel's own file only, and
would go on with old machine code after a change elsewhere.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Layout, in bytes. A header has its own pair of cache lines: x86 prefetches lines in pairs (Intel's optimisation
# manual, 'spatial prefetcher'), so 64 bytes apart would still make two ranks' flags travel together.
HEADER_BYTES = 128
SIGNATURE_OFFSET = 8  # two signatures, for even and odd chunks, behind the flag

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
DONE, WAITING, MISMATCH = 0, 1, 2

# The control block of a rank: private, int64, handed over as one address because a call with many arguments costs as
# much as a small all-reduce. First what stays the same ...
MEMORY, RANKS, RANK, SLOT_BYTES, SPINS, PATIENCE = range(6)
# ... then where the rank is, so that it can go on after WAITING: elements of the message done, stage within a chunk,
# the number that this rank has published, chunks done since the start, and the rank that a MISMATCH found.
OFFSET, STAGE, FLAG, CHUNKS, CULPRIT = range(6, 11)
CONTROL_FIELDS = 11

# Elements summed at a time, all ranks' values in registers: four AVX2 or two AVX-512 registers of fp32.
WIDTH = 32
COPY_WIDTH = 128


@numba.njit(nogil=True, cache=True)
def one_shot(control, source, target, numel, dtype, signature):
    """Sum `numel` elements at address `source`, over all ranks, into address `target` (which may be `source`).

    Every rank reads every rank's whole slot: (ranks - 1) * bytes cross between cores, one wait.
    Returns DONE, WAITING or MISMATCH (a rank came with another `signature`).
    """
    state = state_at(control)
    itemsize = item_size(dtype)
    chunk = state[SLOT_BYTES] // itemsize
    while state[OFFSET] < numel:
        start = state[OFFSET]
        count = min(chunk, numel - start)
        if state[STAGE] == 0:
            copy_in(state, source + start * itemsize, count * itemsize, signature)
        if not all_published(state):
            return WAITING
        if not all_agree(state, signature):
            return MISMATCH
        reduce(state, 0, count, target + start * itemsize, dtype)
        finish_chunk(state, start + count)
    state[OFFSET] = 0
    return DONE


@numba.njit(nogil=True, cache=True)
def two_shot(control, source, target, numel, dtype, signature):
    """As `one_shot`, but each rank sums one slice for all: 2 (ranks - 1) / ranks * bytes cross, two waits."""
    state = state_at(control)
    itemsize = item_size(dtype)
    chunk = state[SLOT_BYTES] // itemsize
    while state[OFFSET] < numel:
        start = state[OFFSET]
        count = min(chunk, numel - start)
        if state[STAGE] == 0:
            copy_in(state, source + start * itemsize, count * itemsize, signature)
        if state[STAGE] == 1:
            if not all_published(state):
                return WAITING
            if not all_agree(state, signature):
                return MISMATCH
            first, last = slice_of(state, state[RANK], count)
            # In place: nobody but this rank reads this slice of this slot before the second publish.
            reduce(state, first, last - first, slot(state, state[RANK]) + first * itemsize, dtype)
            state[STAGE] = 2
            publish(state)
        if not all_published(state):
            return WAITING
        for owner in range(state[RANKS]):
            first, last = slice_of(state, owner, count)
            finished = slot(state, owner) + first * itemsize
            copy_bytes(target + (start + first) * itemsize, finished, (last - first) * itemsize)
        finish_chunk(state, start + count)
    state[OFFSET] = 0
    return DONE


@numba.njit(nogil=True, cache=True)
def barrier(control):
    """DONE when every rank has called it, or WAITING. It publishes without a chunk, so the slots keep their turn."""
    state = state_at(control)
    if state[STAGE] == 0:
        state[STAGE] = 1
        publish(state)
    if not all_published(state):
        return WAITING
    state[STAGE] = 0
    return DONE


@numba.njit(inline="always")
def state_at(control):
    return numba.carray(int64_at(control), CONTROL_FIELDS)


@numba.njit(inline="always")
def item_size(dtype):
    return 4 if dtype == FLOAT32 else 2


@numba.njit(inline="always")
def header(state, rank):
    return state[MEMORY] + rank * HEADER_BYTES


@numba.njit(inline="always")
def signature_of(state, rank):
    return header(state, rank) + SIGNATURE_OFFSET + 8 * (state[CHUNKS] & 1)


@numba.njit(inline="always")
def slot(state, rank):
    """Address of the slot of `rank` whose turn it is in this chunk."""
    return state[MEMORY] + state[RANKS] * HEADER_BYTES + (2 * rank + (state[CHUNKS] & 1)) * state[SLOT_BYTES]


@numba.njit(inline="always")
def slice_of(state, rank, count):
    """First and last element of the slice that `rank` sums. Slices start at multiples of 32 elements, so that no rank
    writes a cache line that a peer still reads."""
    share = ((count + state[RANKS] - 1) // state[RANKS] + 31) // 32 * 32
    return min(rank * share, count), min((rank + 1) * share, count)


@numba.njit(inline="always")
def copy_in(state, source, nbytes, signature):
    copy_bytes(slot(state, state[RANK]), source, nbytes)
    store(signature_of(state, state[RANK]), signature)
    state[STAGE] = 1
    publish(state)


@numba.njit(inline="always")
def publish(state):
    """Release: whoever sees the new flag also sees everything that this rank wrote before."""
    state[FLAG] += 1
    store_release(header(state, state[RANK]), state[FLAG])


@numba.njit(inline="always")
def all_published(state):
    """Acquire: True once every rank's flag has reached this rank's; False when PATIENCE tries were not enough.

    The first SPINS tries only pause the core; later ones give it away, for a rank whose peer waits to be scheduled on
    this very core would else wait for a whole time slice.
    """
    for peer in range(state[RANKS]):
        tries = 0
        while load_acquire(header(state, peer)) < state[FLAG]:
            tries += 1
            if tries > state[PATIENCE]:
                return False
            if tries > state[SPINS]:
                sched_yield()
            else:
                pause()
    return True


@numba.njit(inline="always")
def all_agree(state, signature):
    """Whether every rank called this very operation on the same number of elements."""
    for peer in range(state[RANKS]):
        if load(signature_of(state, peer)) != signature:
            state[CULPRIT] = peer
            return False
    return True


@numba.njit(inline="always")
def finish_chunk(state, offset):
    state[OFFSET] = offset
    state[STAGE] = 0
    state[CHUNKS] += 1


@numba.njit(inline="always")
def reduce(state, first, count, target, dtype):
    """Sum elements [first, first + count) of all slots into `target`: in the order of ranks, in fp32, rounded once."""
    ranks = state[RANKS]
    source = slot(state, 0) + first * item_size(dtype)
    stride = 2 * state[SLOT_BYTES]
    if dtype == FLOAT32:
        sum_float32(source, stride, ranks, target, count)
    elif dtype == BFLOAT16:
        sum_bfloat16(source, stride, ranks, target, count)
    else:
        sum_float16(source, stride, ranks, target, count)


@numba.njit
def copy_bytes(target, source, count):
    """Not libc's memcpy: where that chooses `rep movsb`, as on AMD's Zen 3, it was seen to move 3 GB/s, this 30."""
    whole = count // COPY_WIDTH * COPY_WIDTH
    for i in range(0, whole, COPY_WIDTH):
        copy_vector(target + i, source + i)
    for i in range(whole, count):
        copy_single(target + i, source + i)


@numba.njit
def sum_float32(source, stride, ranks, target, count):
    whole = count // WIDTH * WIDTH
    for i in range(0, whole, WIDTH):
        sum_float32_vector(source + 4 * i, stride, ranks, target + 4 * i)
    for i in range(whole, count):
        sum_float32_single(source + 4 * i, stride, ranks, target + 4 * i)


@numba.njit
def sum_bfloat16(source, stride, ranks, target, count):
    whole = count // WIDTH * WIDTH
    for i in range(0, whole, WIDTH):
        sum_bfloat16_vector(source + 2 * i, stride, ranks, target + 2 * i)
    for i in range(whole, count):
        sum_bfloat16_single(source + 2 * i, stride, ranks, target + 2 * i)


@numba.njit
def sum_float16(source, stride, ranks, target, count):
    whole = count // WIDTH * WIDTH
    for i in range(0, whole, WIDTH):
        sum_float16_vector(source + 2 * i, stride, ranks, target + 2 * i)
    for i in range(whole, count):
        sum_float16_single(source + 2 * i, stride, ranks, target + 2 * i)


# What numba has no word for: vectors of bf16 and fp16, ordered loads and stores, pause, addresses as pointers.

_INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (16, 32, 64))
_PAUSE = {"x86_64": ("llvm.x86.sse2.pause", []), "aarch64": ("llvm.aarch64.hint", [_INT32(1)])}.get(platform.machine())


@dataclass(frozen=True)
class _Format:
    """How a dtype sits in memory: a vector of `item`s widens to one or more vectors of fp32, and back."""

    item: ir.Type
    items: int
    widen: Callable
    narrow: Callable


def _summer(form):
    """An intrinsic (source, stride, ranks, target): sum one vector of each rank, `stride` bytes apart."""
    vector = ir.VectorType(form.item, form.items)

    @intrinsic
    def sum_over_ranks(typing, source, stride, ranks, target):
        def generate(context, builder, signature, arguments):
            source, stride, ranks, target = arguments

            def values_of(rank):  # any address will do (align=1): a caller's tensor may start anywhere
                address = builder.inttoptr(builder.add(source, builder.mul(rank, stride)), vector.as_pointer())
                return form.widen(builder, builder.load(address, align=1))

            totals = [cgutils.alloca_once_value(builder, value) for value in values_of(_INT64(0))]
            with cgutils.for_range_slice(builder, _INT64(1), ranks, _INT64(1)) as (rank, _):
                for total, value in zip(totals, values_of(rank), strict=True):
                    builder.store(builder.fadd(builder.load(total), value), total)
            result = form.narrow(builder, [builder.load(total) for total in totals])
            builder.store(result, builder.inttoptr(target, vector.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64), generate

    return sum_over_ranks


def _splat(like, value):
    return ir.Constant(ir.VectorType(_INT32, like.type.count), [value] * like.type.count)


def _as(item, value):
    return ir.VectorType(item, value.type.count)


def _float32(items):
    return _Format(ir.FloatType(), items, lambda b, values: [values], lambda b, totals: totals[0])


def _float16(items):
    return _Format(
        ir.HalfType(),
        items,
        lambda b, values: [b.fpext(values, _as(ir.FloatType(), values))],
        lambda b, totals: b.fptrunc(totals[0], _as(ir.HalfType(), totals[0])),
    )


def _bfloat16(items):
    """One bf16 is the upper half of an fp32 with the same value."""

    def widen(b, values):
        words = b.shl(b.zext(values, _as(_INT32, values)), _splat(values, 16))
        return [b.bitcast(words, _as(ir.FloatType(), words))]

    def narrow(b, totals):
        words = b.lshr(_round_to_upper_half(b, totals[0]), _splat(totals[0], 16))
        return b.trunc(words, _as(_INT16, words))

    return _Format(_INT16, items, widen, narrow)


def _bfloat16_pairs(items):
    """`items` words of two bf16 each, the even and the odd ones summed apart: it needs no shuffles, so it is faster."""
    upper = 0xFFFF0000

    def widen(b, words):
        halves = b.shl(words, _splat(words, 16)), b.and_(words, _splat(words, upper))
        return [b.bitcast(half, _as(ir.FloatType(), half)) for half in halves]

    def narrow(b, totals):
        even, odd = (_round_to_upper_half(b, total) for total in totals)
        return b.or_(b.lshr(even, _splat(even, 16)), b.and_(odd, _splat(odd, upper)))

    return _Format(_INT32, items, widen, narrow)


def _round_to_upper_half(b, total):
    """To nearest, ties to even, in the upper 16 bits; NaN becomes 0x7FC0, as torch does (c10/util/BFloat16.h)."""
    bits = b.bitcast(total, _as(_INT32, total))
    odd = b.and_(b.lshr(bits, _splat(bits, 16)), _splat(bits, 1))
    rounded = b.add(bits, b.add(odd, _splat(bits, 0x7FFF)))
    return b.select(b.fcmp_unordered("uno", total, total), _splat(bits, 0x7FC00000), rounded)


sum_float32_vector, sum_float32_single = _summer(_float32(WIDTH)), _summer(_float32(1))
sum_float16_vector, sum_float16_single = _summer(_float16(WIDTH)), _summer(_float16(1))
sum_bfloat16_vector, sum_bfloat16_single = _summer(_bfloat16_pairs(WIDTH // 2)), _summer(_bfloat16(1))

sched_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def pause(typing):
    """Tell the core that this is a spin loop: it saves power and frees the sibling thread."""

    def generate(context, builder, signature, arguments):
        if _PAUSE:
            name, arguments = _PAUSE
            kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
        return context.get_dummy_value()

    return types.void(), generate


def _loader(ordering):
    @intrinsic
    def load(typing, address):
        def generate(context, builder, signature, arguments):
            return builder.load_atomic(builder.inttoptr(arguments[0], _INT64.as_pointer()), ordering, 8)

        return types.int64(types.int64), generate

    return load


def _storer(ordering):
    @intrinsic
    def store(typing, address, value):
        def generate(context, builder, signature, arguments):
            builder.store_atomic(arguments[1], builder.inttoptr(arguments[0], _INT64.as_pointer()), ordering, 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return store


load, load_acquire = _loader("monotonic"), _loader("acquire")
store, store_release = _storer("monotonic"), _storer("release")


def _copier(width):
    """An intrinsic (target, source): move `width` bytes through registers."""
    vector = ir.VectorType(ir.IntType(8), width)

    @intrinsic
    def copy(typing, target, source):
        def generate(context, builder, signature, arguments):
            target, source = (builder.inttoptr(address, vector.as_pointer()) for address in arguments)
            builder.store(builder.load(source, align=1), target, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return copy


copy_vector, copy_single = _copier(COPY_WIDTH), _copier(1)


@intrinsic
def int64_at(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], _INT64.as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


# Compiled, or loaded from numba's cache, on import: not in the middle of somebody's first request.
for _kernel in (one_shot, two_shot):
    _kernel.compile((types.int64,) * 6)
barrier.compile((types.int64,))
