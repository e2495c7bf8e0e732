"""The Triton kernel of PEG, on tokens as they lie in memory, and how its work is cut.

A tile is ROWS x COLUMNS neighbouring places of a grid. A program takes WIDTH channels and LANES
tiles side by side at once, `steps` times. It reads a tile and its border (together the halo) into registers: for a 3x3
kernel and 2x2 places 4 reads a token, where taps read one by one are 9; neighbouring lanes and programs find theirs in
the caches, so memory is read once and written once. Channels lie side by side in memory: a thread holds 4 or 8 of them,
16 bytes, and a warp a few tokens. Taps stay in registers. They lie (D, k * k) in memory, so threads side by side read
them once a program, not once a tile. Beyond 3x3 taps and halo need the registers: a thread holds 2 channels, then 1.
Where taps lie several places apart, so do the rows or columns of a halo, and a tile is one place long along that axis.

The gradient of the tokens is the same walk over the incoming gradient with the kernel turned round; those of weight and
bias come out of the same reads: every program keeps sums over its tiles in float32 and writes them to a row of its own,
and one torch.sum adds the rows, without atomics, so that every run gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cpvt.grids import Grid

# Sizes for an H100: 132 processors, of which each holds three programs of 128 threads with 168 registers.
PROGRAMS_FORWARD = 1584  # before a program takes more steps than one: four turns, so that the last one costs little
PROGRAMS_BACKWARD = 396  # about so many, one turn, as each has sums to write
MOST_STEPS_FORWARD = 8
REGISTERS = 168
SIZES = ["height", "width", "prefix", "length", "tiles", "steps", "chunks", "prefix_rows"]  # compiled once for all


def interpreted() -> bool:
    """Whether Triton runs in its interpreter, which also works on the CPU: TRITON_INTERPRET=1 before it is imported."""
    return not isinstance(_walk, triton.JITFunction)


@triton.jit
def _halo(
    start, held, step, y, x, height, width, alive,
    ABOVE: tl.constexpr, LEFT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    """ROWS x COLUMNS values around the place (y, x) that `start` points to, each (LANES, WIDTH); 0 off the grid.

    Rows are DOWN apart and columns ACROSS; ABOVE rows and LEFT columns of them come before the place.
    """
    seen = ()
    for row in tl.static_range(ROWS):
        down = (row - ABOVE) * DOWN
        row_there = alive & ((y + down).to(tl.uint32) < height)  # before 0 counts as far beyond the end
        for column in tl.static_range(COLUMNS):
            across = (column - LEFT) * ACROSS
            there = row_there & ((x + across).to(tl.uint32) < width)
            offset = (down * width + across) * step
            value = tl.load(start + offset[:, None], mask=there[:, None] & held[None, :], other=0.0)
            seen = seen + (value.to(tl.float32),)
    return seen


@triton.jit
def _encode(
    seen, kernel, first, goal, held, step, y, x, height, width, alive,
    KH: tl.constexpr, KW: tl.constexpr, RESIDUAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the encoding of a tile to `goal`: what its halo `seen` gives under the kernel, from the bias `first` on."""
    BESIDE: tl.constexpr = COLUMNS + KW - 1  # columns of the halo
    MIDDLE: tl.constexpr = KH // 2 * BESIDE + KW // 2
    for row in tl.static_range(ROWS):
        for column in tl.static_range(COLUMNS):
            total = first
            for tap in tl.static_range(KH * KW):
                total += seen[(row + tap // KW) * BESIDE + column + tap % KW] * kernel[tap]
            if RESIDUAL:
                total += seen[row * BESIDE + column + MIDDLE]
            there = alive & (y + row < height) & (x + column < width)
            offset = (row * width + column) * step
            tl.store(goal + offset[:, None], total, mask=there[:, None] & held[None, :])


@triton.jit
def _weigh(
    totals, seen, own,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add to the total of each tap the products of a tile's `own` values with those `seen` there; last, their sum."""
    BESIDE: tl.constexpr = COLUMNS + KW - 1
    MIDDLE: tl.constexpr = KH // 2 * BESIDE + KW // 2
    grown = ()
    for tap in tl.static_range(KH * KW):
        total = totals[tap]
        for place in tl.static_range(ROWS * COLUMNS):
            total += seen[(place // COLUMNS + tap // KW) * BESIDE + place % COLUMNS + tap % KW] * own[place]
        grown = grown + (total,)
    total = totals[KH * KW]
    for place in tl.static_range(ROWS * COLUMNS):
        total += seen[place // COLUMNS * BESIDE + place % COLUMNS + MIDDLE]
    return grown + (total,)


@triton.jit
def _pass_on(
    source, encoded, number, rows, channel, held, source_batch, source_step, encoded_step, prefix, length,
    RESIDUAL: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Copy prefix tokens number `number` of all `rows`, or write zero."""
    there = (number < rows)[:, None] & held[None, :]
    image, place = (number // prefix).to(tl.int64), number % prefix
    value = tl.zeros([LANES, WIDTH], tl.float32)
    if RESIDUAL:
        start = (source + image * source_batch + place * source_step)[:, None] + channel[None, :]
        value += tl.load(start, mask=there, other=0.0).to(tl.float32)
    tl.store((encoded + (image * length + place) * encoded_step)[:, None] + channel[None, :], value, mask=there)


@triton.jit(do_not_specialize=SIZES)
def _walk(
    source, taps, bias, encoded, centre, sums, source_batch, source_token, centre_batch, centre_token,
    height, width, prefix, length, channels, tiles, steps, chunks, prefix_rows,
    KH: tl.constexpr, KW: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr,
    TURNED: tl.constexpr, RESIDUAL: tl.constexpr, ENCODE: tl.constexpr, WEIGH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Encode `source` into `encoded`, or sum its products with `centre` for every tap into `sums`, or both.

    Programs come chunk by chunk of tiles, in each all blocks of channels; after them those that pass the prefix on.
    """
    TAPS: tl.constexpr = KH * KW
    blocks = tl.cdiv(channels, WIDTH)
    chunk = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * WIDTH + tl.arange(0, WIDTH)
    held = tl.full([WIDTH], True, tl.int1) if FULL else channel < channels
    lane = tl.arange(0, LANES)
    source_step = tl.zeros([LANES], tl.int64) + source_token  # int64: a tensor may have more than 2^31 numbers
    encoded_step = tl.zeros([LANES], tl.int64) + channels
    if chunk < chunks:
        kernel = ()
        first = tl.zeros([LANES, WIDTH], tl.float32)
        if ENCODE:
            for tap in tl.static_range(TAPS):
                kept = channel * TAPS + (TAPS - 1 - tap if TURNED else tap)
                kernel = kernel + (tl.load(taps + kept, mask=held, other=0.0).to(tl.float32)[None, :],)
            if bias is not None:
                first += tl.load(bias + channel, mask=held, other=0.0).to(tl.float32)[None, :]
        totals = ()
        for _ in tl.static_range((TAPS + 1) * WEIGH):
            totals = totals + (tl.zeros([LANES, WIDTH], tl.float32),)
        step = chunk * steps
        while step < (chunk + 1) * steps:
            tile = step * LANES + lane
            alive = tile < tiles
            tile_row = tile // tl.cdiv(width, COLUMNS)
            x = tile % tl.cdiv(width, COLUMNS) * COLUMNS
            y = tile_row % tl.cdiv(height, ROWS) * ROWS
            image = (tile_row // tl.cdiv(height, ROWS)).to(tl.int64)
            place = prefix + y * width + x
            start = (source + image * source_batch + place * source_step)[:, None] + channel[None, :]
            seen = _halo(
                start, held, source_step, y, x, height, width, alive,
                KH // 2, KW // 2, ROWS + KH - 1, COLUMNS + KW - 1, DOWN, ACROSS,
            )  # fmt: skip
            if ENCODE:
                goal = (encoded + (image * length + place) * encoded_step)[:, None] + channel[None, :]
                _encode(
                    seen, kernel, first, goal, held, encoded_step, y, x, height, width, alive,
                    KH, KW, RESIDUAL, ROWS, COLUMNS,
                )  # fmt: skip
            if WEIGH:
                centre_step = tl.zeros([LANES], tl.int64) + centre_token
                start = (centre + image * centre_batch + place * centre_step)[:, None] + channel[None, :]
                own = _halo(start, held, centre_step, y, x, height, width, alive, 0, 0, ROWS, COLUMNS, 1, 1)
                totals = _weigh(totals, seen, own, KH, KW, ROWS, COLUMNS)
            step += 1
        for tap in tl.static_range((TAPS + 1) * WEIGH):
            kept = TAPS - 1 - tap if TURNED and tap < TAPS else tap
            goal = sums + (chunk * (TAPS + 1) + kept) * channels + channel
            tl.store(goal, tl.sum(totals[tap], 0), mask=held)
    elif ENCODE:
        number = (chunk - chunks) * LANES + lane
        _pass_on(
            source, encoded, number, prefix_rows, channel, held, source_batch, source_step, encoded_step, prefix,
            length, RESIDUAL, LANES, WIDTH,
        )  # fmt: skip


class _Cut(NamedTuple):
    """How the work is cut: constants of the kernel."""

    ROWS: int
    COLUMNS: int
    LANES: int
    WIDTH: int
    FULL: bool  # whether all channels of all programs are there
    num_warps: int


def _cut(
    dtype: torch.dtype, taps: int, grid: Grid, channels: int, weigh: bool, dilation: Sequence[int] = (1, 1)
) -> _Cut:
    """Tiles as large as registers allow, which hold a halo, the taps and, to weigh, a sum for each tap.

    Along a dilated axis a tile is one place long: places side by side have no neighbour in common there.
    """
    width = min(128, max(16, triton.next_power_of_2(channels)))
    while width > 32 and channels % width and channels % 32 == 0:
        width //= 2  # 192 is three times 64 and not one and a half times 128
    warps = max(1, width // 32)
    rows, columns, each = 2, 2, 4 if weigh or dtype == torch.float32 else 8  # each: channels of a thread
    if taps > 9:
        rows, columns, each = (1 if weigh else 2, 2, 2) if taps <= 25 else (1, 1, 1)
    rows, columns = (1 if gap > 1 else places for gap, places in zip(dilation, (rows, columns)))
    return _Cut(
        min(rows, grid[0]), min(columns, grid[1]), each * 32 * warps // width, width, channels % width == 0, warps
    )


def run(
    source: Tensor, weight: Tensor, bias: Tensor | None, grid: Grid, prefix_tokens: int, residual: bool,
    dilation: Sequence[int], turned: bool = False, encode: bool = True, centre: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Launch the kernel: the encoding of `source` if asked, and sums (k * k + 1, D) in float32 if `centre` is given."""
    batch, length, channels = source.shape
    sides, taps = weight.shape[2:], weight.shape[2] * weight.shape[3]
    cut = _cut(source.dtype, taps, grid, channels, centre is not None, dilation)
    tiles = batch * triton.cdiv(grid[0], cut.ROWS) * triton.cdiv(grid[1], cut.COLUMNS)
    groups, blocks = triton.cdiv(tiles, cut.LANES), triton.cdiv(channels, cut.WIDTH)
    if centre is None:
        steps = min(MOST_STEPS_FORWARD, max(1, groups * blocks // PROGRAMS_FORWARD))
    else:
        steps = max(1, triton.cdiv(groups * blocks, PROGRAMS_BACKWARD))
    chunks, prefix_rows = triton.cdiv(groups, steps), batch * prefix_tokens if encode else 0
    programs = (chunks + triton.cdiv(prefix_rows, cut.LANES)) * blocks
    encoded = torch.empty(source.shape, dtype=source.dtype, device=source.device) if encode else None
    sums = None if centre is None else source.new_empty(chunks, taps + 1, channels, dtype=torch.float32)
    if programs:
        source, centre = _side_by_side(source), None if centre is None else _side_by_side(centre)
        own = {} if torch.version.hip or taps > 9 else {"maxnreg": REGISTERS}
        with torch.cuda.device(source.device) if source.is_cuda else nullcontext():
            _walk[(programs,)](
                source, weight.contiguous(), None if bias is None else bias.contiguous(), encoded, centre, sums,
                *source.stride()[:2], *((0, 0) if centre is None else centre.stride()[:2]),
                *grid, prefix_tokens, length, channels, tiles, steps, chunks, prefix_rows,
                KH=sides[0], KW=sides[1], DOWN=int(dilation[0]), ACROSS=int(dilation[1]), TURNED=turned,
                RESIDUAL=residual, ENCODE=encode, WEIGH=centre is not None, **cut._asdict(), enable_fp_fusion=True,
                **own,
            )  # fmt: skip
    return encoded, None if sums is None else sums.sum(0)


def _side_by_side(tokens: Tensor) -> Tensor:
    """The tokens, copied only where the channels of a token do not lie side by side."""
    return tokens if tokens.stride(2) == 1 else tokens.contiguous()
