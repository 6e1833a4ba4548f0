"""The kernels of `triton/one_shot` and `triton/two_shot`: one launch each, sums in fp32 in the order of ranks.

Every rank owns one symmetric allocation. `peers` holds the address of each rank's, as seen from this GPU; in each lie,
at the same places, flags and a staging area of two halves. A block works on its own share of the message, meets only
the blocks of its own number on the other ranks, and owns a fixed region in each half of the staging area.

What orders what: `epochs` counts, on the device and per block, how often its ranks have met, so that a replayed CUDA
graph goes on where the last replay ended. A block stages its input in the half that its last call did not use. Before
it uses that half again, one more call has met the same blocks of all peers, each of which came there from a later
kernel than the one that read the half: so no second meeting is needed to say that reading is over. Epochs may wrap:
they are compared by the sign of their difference, and the halves take turns across 2^32.

What it rests on, and nobody checks: ranks make the same calls, of the same length and dtype, in the same order, and a
rank's kernels run one after the other (`gpu.OneStream`; no programmatic dependent launch).
"""

import triton
import triton.language as tl

MEET = """
{
    .reg .pred idle, early;
    .reg .u32 thread, seen;
    .reg .u64 at, peer;
    mov.u32 thread, %tid.x;
    setp.ge.u32 idle, thread, $5;
    @idle bra MET;
    mul.wide.u32 at, thread, 8;
    add.u64 at, at, $1;
    ld.global.u64 peer, [at];
    add.u64 peer, peer, $2;
    st.release.sys.global.u32 [peer], $4;
    mul.wide.u32 at, thread, 4;
    add.u64 at, at, $3;
WAIT:
    ld.acquire.sys.global.u32 seen, [at];
    sub.u32 seen, seen, $4;
    setp.lt.s32 early, seen, 0;
    @early bra WAIT;
MET:
    mov.u32 $0, 0;
}
"""


@triton.jit
def meet(peers, FLAGS: tl.constexpr, block, rank, epoch, WORLD: tl.constexpr, WIDTH: tl.constexpr):
    """Return when block `block` of every rank has come to `epoch`; what each wrote before is then seen by all of it.

    Thread r tells rank r, then waits for rank r: the release orders the whole block's writes (through the first
    barrier) before the flag, the acquire orders the flag before the whole block's reads (through the second).
    """
    own = tl.load(peers + rank) + FLAGS + block * WIDTH * 4
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        MEET_ASM,
        "=r,l,l,l,r,r",
        [peers.to(tl.int64), (FLAGS + block * WIDTH * 4 + rank * 4).to(tl.int64), own, epoch, WORLD],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
    tl.debug_barrier()


MEET_ASM = tl.constexpr(MEET)


def one_shot(
    source, target, peers, epochs, numel, share, rank,
    FLAGS: tl.constexpr, STAGING: tl.constexpr, BLOCKS: tl.constexpr, REGION: tl.constexpr,
    WORLD: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Stage the input, meet, sum everybody's. `share`: elements of a block, at most `REGION`, a multiple of 16."""
    block = tl.program_id(0)
    epoch = tl.load(epochs + block) + 1
    element = source.dtype.element_ty
    slot = ((epoch & 1) * BLOCKS + block) * REGION
    begin = block * share
    end = tl.minimum(begin + share, numel)
    lanes = tl.arange(0, TILE)
    mine = _staging(peers, rank, STAGING, element)
    for at in range(0, share, TILE):
        inside = begin + at + lanes < end
        tl.store(mine + slot + at + lanes, tl.load(source + begin + at + lanes, mask=inside), mask=inside)
    meet(peers, FLAGS, block, rank, epoch, WORLD, WIDTH)
    for at in range(0, share, TILE):
        inside = begin + at + lanes < end
        total = _load(peers, 0, STAGING, slot + at + lanes, inside, element).to(tl.float32)
        for other in tl.static_range(1, WORLD):
            total += _load(peers, other, STAGING, slot + at + lanes, inside, element).to(tl.float32)
        tl.store(target + begin + at + lanes, total.to(element), mask=inside)
    tl.store(epochs + block, epoch)


def two_shot(
    source, target, peers, epochs, numel, part, rank,
    FLAGS: tl.constexpr, STAGING: tl.constexpr, BLOCKS: tl.constexpr, REGION: tl.constexpr,
    WORLD: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, COPY_TILE: tl.constexpr,
):  # fmt: skip
    """Stage the input, meet, sum one of the share's WORLD parts in place, meet, gather the others.

    `part`: elements of a part, a multiple of 16; a block's share is WORLD of them, at most `REGION` elements.
    """
    block = tl.program_id(0)
    epoch = tl.load(epochs + block) + 2
    element = source.dtype.element_ty
    slot = (((epoch >> 1) & 1) * BLOCKS + block) * REGION
    share = part * WORLD
    begin = block * share
    end = tl.minimum(begin + share, numel)
    mine = _staging(peers, rank, STAGING, element)
    wide = tl.arange(0, COPY_TILE)
    for at in range(0, share, COPY_TILE):
        inside = begin + at + wide < end
        tl.store(mine + slot + at + wide, tl.load(source + begin + at + wide, mask=inside), mask=inside)
    meet(peers, FLAGS, block, rank, epoch - 1, WORLD, WIDTH)
    lanes = tl.arange(0, TILE)
    own = tl.multiple_of(rank * part, 16)
    for at in range(0, part, TILE):
        inside = (at + lanes < part) & (begin + own + at + lanes < end)
        total = _load(peers, 0, STAGING, slot + own + at + lanes, inside, element).to(tl.float32)
        for other in tl.static_range(1, WORLD):
            total += _load(peers, other, STAGING, slot + own + at + lanes, inside, element).to(tl.float32)
        tl.store(mine + slot + own + at + lanes, total.to(element), mask=inside)
        tl.store(target + begin + own + at + lanes, total.to(element), mask=inside)
    meet(peers, FLAGS, block, rank, epoch, WORLD, WIDTH)
    for at in range(0, part, TILE):
        for step in tl.static_range(1, WORLD):
            other = (rank + step) % WORLD  # each rank begins with another, so that not all read one at a time
            theirs = tl.multiple_of(other * part, 16)
            inside = (at + lanes < part) & (begin + theirs + at + lanes < end)
            summed = _load(peers, other, STAGING, slot + theirs + at + lanes, inside, element)
            tl.store(target + begin + theirs + at + lanes, summed, mask=inside)
    tl.store(epochs + block, epoch)


@triton.jit
def _load(peers, rank, STAGING: tl.constexpr, offsets, inside, element: tl.constexpr):
    """What `rank` has staged."""
    return tl.load(_staging(peers, rank, STAGING, element) + offsets, mask=inside)


@triton.jit
def _staging(peers, rank, STAGING: tl.constexpr, element: tl.constexpr):
    """The staging area of `rank`; symmetric allocations begin at pages, so loads of 16 bytes are aligned."""
    base = tl.multiple_of(tl.load(peers + rank).to(tl.pointer_type(element)), 16)
    return base + STAGING * 8 // element.primitive_bitwidth


# One compilation serves every aligned message, another one all others: nothing compiles while a graph is captured.
_LOOSE = {"do_not_specialize": ["numel", "rank"], "do_not_specialize_on_alignment": ["source", "target"]}
ONE_SHOT = triton.jit(one_shot, do_not_specialize=["rank"])
TWO_SHOT = triton.jit(two_shot, do_not_specialize=["rank"])
ONE_SHOT_UNALIGNED = triton.jit(one_shot, **_LOOSE)
TWO_SHOT_UNALIGNED = triton.jit(two_shot, **_LOOSE)
