"""Copying blocks out of the entropy-coded part of a JPEG without decoding it, compiled by numba.

A scan is a sequence of MCUs (minimum coded units, the 8x8 blocks that cover one patch of the image), row by row, each
block Huffman-coded bit after bit. A baseline JPEG has no index: a block can only be found by reading all blocks before
it. Two things are needed of each block on the way: its length in bits, and its DC difference. DC, the block's average
colour, is coded as the difference to the block before it of the same component, so the sums of all differences are the
state in which the next block is read. AC coefficients are skipped, several symbols per table lookup.

All blocks of an image are read, also those after a region: damage shifts the blocks behind it, and mostly shows only by
their number.

Restart markers would reset that state and align the stream to bytes; `jpeg_cut` refuses such files, so that nothing
here has to look for them.

Bit positions and stream words are uint64 everywhere: numba turns a mix of signed and unsigned integers into floats.

Source: ITU-T T.81, annexes F.1.2 and F.2.2.
"""

import sys
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hawor_pipeline.conversion.compiled import compiled, inlined

LOOK_BITS = 13  # of the stream per table lookup, at most 15: with more than 13, the tables leave the fast cache
SLACK = 16  # bytes past the end of a stream that may be read
MAX_MCU_BYTES = 10 * 64 * 4  # ten blocks, 64 coefficients, at most 31 bits each
_STRIDE = 16  # steps between two looks at where the walks are
ROOM = _STRIDE + 2  # MCUs past the last one of its image that a walk may write
_END_BITS = 4096  # before the end of a stream are left to the walk that counts MCUs
MAX_ROW_BYTES = 3 * 4  # growth of a row by its newly coded first differences, one per component

_U = np.uint64
_ONES, _HIGH = _U(0x0101010101010101), _U(0x8080808080808080)
_BROKEN = -1
LEAST_BLOCK_BITS = 2  # a code for the difference, and one for the end of the block
_MOST_AHEAD = 62  # coefficients per lookup: one more could complete a block without an end-of-block symbol


class Tables(NamedTuple):
    """Huffman tables of all pairs (one for DC, one for AC) of a scan, each pair's behind the previous one's."""

    dc_codes: np.ndarray  # (pairs * 65536,) int32, length << 8 | symbol by the next 16 bits; 0: no such code
    ac_codes: np.ndarray  # (pairs * 65536,) int32, the same for the other coefficients
    ahead: np.ndarray  # (pairs * 2 * 2**LOOK_BITS,) int32, entries of `look_up_tables`


class Mcu(NamedTuple):
    """Layout of an MCU: its blocks in stream order, and the codes they are written with."""

    blocks: np.ndarray  # (blocks, 2) int64, pair of tables and component of each block
    turns: np.ndarray  # (blocks * 2,) uint64 by 2 * block + ended, of the next block: first entry of `ahead` << 16 |
    # 2 * block << 8 | MCU ended << 7 | 21 * component
    tables: Tables
    code_words: np.ndarray  # (pairs, 12) int64, code << 8 | length of each size of a DC difference; 0: no such code


@intrinsic
def _word(_, stream, at):
    """Compile to one load and one swap of bytes, which LLVM does not make of eight loads of a byte."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        word = builder.load(place)
        word.align = 1
        return builder.bswap(word) if sys.byteorder == "little" else word

    return types.uint64(stream, at), generate


@inlined
def _load(stream, at):
    """Read eight bytes, most significant first, at any alignment."""
    _ = stream[at + _U(7)]  # has no effect, but where numba checks bounds
    return _word(stream, at)  # type: ignore[call-arg]  # numba gives the first argument


@inlined
def _has_ff(word):
    """Test whether one of eight bytes is 0xff.

    The known test for a zero byte, on the complement: subtracting 1 from each byte borrows into the highest bit only
    where the byte is 0 or already had that bit; the second mask removes the latter.
    """
    return ((~word - _ONES) & word & _HIGH) != _U(0)


@compiled
def unstuff(data, start, out):
    """Copy a scan without its stuffing.

    A marker is 0xff and a code, so an encoder writes each 0xff of the scan as 0xff 0x00. Without these zeros the scan
    is one string of bits, in which a block can be found by its bit position alone.

    Args:
        data: (n,) uint8, the file.
        start: Position of the scan.
        out: uint8, at least as long as the rest of the file.

    Returns:
        Bytes of the scan; -1 if the file ends before its end marker, or another marker interrupts the scan.
    """
    at, to, last = _U(start), _U(0), _U(data.size)
    while at < last:
        if at + _U(8) <= last:
            # Copied before the test, so that the compiler can make it one store; a hit is written again below.
            word = _load(data, at)
            for byte in range(8):
                out[to + _U(byte)] = data[at + _U(byte)]
            if not _has_ff(word):
                at += _U(8)
                to += _U(8)
                continue
        while at < last and data[at] != 255:
            out[to] = data[at]
            at += _U(1)
            to += _U(1)
        if at + _U(1) >= last:
            break
        if data[at + _U(1)] != 0:
            # 0xd9 is the end of the image; all other markers inside a scan are restarts, or damage
            return np.int64(to) if data[at + _U(1)] == 0xD9 else np.int64(_BROKEN)
        out[to] = 255
        at += _U(2)
        to += _U(1)
    return np.int64(_BROKEN)


@inlined
def _is_odd(symbol):
    """Test for an AC symbol that sequential JPEGs lack: zero bits, but neither 16 zeros (0xf0) nor end of block (0)."""
    return symbol & 15 == 0 and symbol != 0xF0


@compiled
def _runs(codes, window, used, look):
    """Follow the AC symbols that lie completely inside a window of the stream.

    A symbol is a run of zeros (upper four bits) and the number of bits (lower four) that follow it for a coefficient.

    Returns:
        (bits, coefficients, 1 if the block ended).
    """
    coefficients, mask = 0, (1 << look) - 1
    while True:
        code = codes[((window << used) & mask) << (16 - look)]
        symbol = code & 255
        bits = (code >> 8) + (symbol & 15)
        if code == 0 or used + bits > look:
            return used, coefficients, 0
        if symbol == 0:
            return used + bits, coefficients, 1
        if _is_odd(symbol) or coefficients + (symbol >> 4) + 1 > _MOST_AHEAD:
            return used, coefficients, 0
        used += bits
        coefficients += (symbol >> 4) + 1


@inlined
def _entry(difference, coefficients, ended, bits):
    mask = 127 * (1 - ended) * min(bits, 1)
    return difference << 20 | coefficients << 12 | mask << 5 | ended << 4 | bits


@compiled
def look_up_tables(dc_codes, ac_codes):
    """Tabulate all that the next bits of a stream determine.

    Args:
        dc_codes: (65536,) int32 of one pair, see `Tables`.
        ac_codes: (65536,) int32 of one pair.

    Returns:
        (2 * 2**LOOK_BITS,) int32, first for the start of a block, then for its rest: difference << 20 |
        coefficients << 12 | mask << 5 | ended << 4 | bits, where the mask is 0 if the block ended, else 127. 0 if no
        symbol is complete.
    """
    look = LOOK_BITS
    count = 1 << look
    ahead = np.zeros(2 * count, np.int32)
    for window in range(count):
        used, coefficients, ended = _runs(ac_codes, window, 0, look)
        ahead[count + window] = _entry(0, coefficients, ended, used)
        code = dc_codes[window << (16 - look)]
        length, size = code >> 8, code & 255
        if code == 0 or size > 11 or length + size > look:
            continue
        difference = (window >> (look - length - size)) & ((1 << size) - 1)
        if size > 0 and difference < 1 << (size - 1):  # a first bit of 0 marks a negative value
            difference -= (1 << size) - 1
        used, coefficients, ended = _runs(ac_codes, window, length + size, look)
        ahead[window] = _entry(difference, coefficients + 1, ended, used)
    return ahead


@compiled
def _difference(stream, at, codes, table):
    """Read the DC difference at the start of a block.

    Returns:
        (value, bits); 0 bits if there is no such code.
    """
    word = _load(stream, at >> _U(3)) << (at & _U(7))
    code = codes[(table << _U(16)) | (word >> _U(48))]
    length, size = _U(code >> 8), _U(code & 255)
    if code == 0 or size > _U(11):
        return np.int64(0), _U(0)
    if size == _U(0):
        return np.int64(0), length
    value = np.int64((word << length) >> (_U(64) - size))
    if value < np.int64(1) << np.int64(size - _U(1)):
        value -= (np.int64(1) << np.int64(size)) - 1
    return value, length + size


@inlined
def _skip_symbol(ac_codes, table, word, position):
    """Read one AC symbol that no lookup table covers.

    Returns:
        (bits, position after it); 0 bits if it is broken, position 64 at the end of the block.
    """
    code = ac_codes[(table << _U(16)) | (word >> _U(48))]
    symbol = _U(code & 255)
    step = _U(code >> 8) + (symbol & _U(15))
    reached = _U(64) if symbol == _U(0) else position + (symbol >> _U(4)) + _U(1)
    if code == 0 or reached > _U(64) or (symbol != _U(0) and _is_odd(code & 255)):
        step = _U(0)
    return step, reached


@compiled
def _symbol(stream, at, table, position, tables):
    """Read one symbol that no lookup covers; return (difference, bits, position after it) like `_skip_symbol`."""
    if position == _U(0):
        value, used = _difference(stream, at, tables.dc_codes, table)
        return value, used, _U(1)
    word = _load(stream, at >> _U(3)) << (at & _U(7))
    used, reached = _skip_symbol(tables.ac_codes, table, word, position)
    return np.int64(0), used, reached


@compiled
def _sum_of(sums, part):
    """Return the sum of one component, see `_step`; those below it may have borrowed from it."""
    rest = np.int64(sums)
    for _ in range(part):
        rest = (rest - ((rest << 43) >> 43)) >> 21
    return (rest << 43) >> 43


@inlined
def _step(stream, state, starts, turns, ahead):
    """Move a walk on by one lookup.

    The sums of the DC differences of all components share a word, 21 bits each, so that one addition serves each of
    them. There is no branch, as a wrong guess of the processor costs more than a lookup and stops all walks; masks and
    turns are read from tables, because LLVM makes branches of what is computed from a bit.

    Args:
        stream: (n,) uint8 of `unstuff`.
        state: Six uint64: bit, turn (see `Mcu`), coefficient in the block, sums, 2 * complete MCUs, and new beginnings.
        starts: (m,) uint64, bit and sums at the start of each MCU; is changed.
        turns: See `Mcu`.
        ahead: See `Tables`.

    Returns:
        (the next state, whether the symbol needs `_odd_step` instead).
    """
    at, turn, position, sums, count, begun = state
    word = _load(stream, at >> _U(3)) << (at & _U(7))
    rest = _U(position != _U(0)) << _U(LOOK_BITS)
    entry = np.int64(ahead[(turn >> _U(16)) + (rest | (word >> _U(64 - LOOK_BITS)))])
    bits, reached = _U(entry & 15), position + _U(entry >> 12 & 127)
    at += bits
    sums += _U(entry >> 20) << (turn & _U(63))
    turn = turns[(turn >> _U(8) & _U(255)) | _U(entry >> 4 & 1)]
    # the start after this MCU is written again and again until it is one
    starts[count + _U(2)], starts[count + _U(3)] = at, sums
    count += turn >> _U(6) & _U(2)
    return (at, turn, reached & _U(entry >> 5 & 127), sums, count, begun), (bits == _U(0)) | (reached > _U(63))


@compiled
def _odd_step(stream, state, starts, mcu):
    """Move a walk on by one symbol that no lookup covers, or begin it again at the next bit if there is none."""
    at, turn, position, sums, count, begun = state
    block = np.int64(turn >> _U(9) & _U(127))
    difference, bits, position = _symbol(stream, at, _U(mcu.blocks[block, 0]), position, mcu.tables)
    if bits == _U(0):
        return _begin(starts, at + _U(1), mcu.turns, begun + _U(1))
    at += bits
    sums += _U(difference) << _U(21 * mcu.blocks[block, 1])
    starts[count + _U(2)], starts[count + _U(3)] = at, sums
    ended = position == _U(64)
    turn = mcu.turns[2 * block + ended]
    return at, turn, _U(0) if ended else position, sums, count + (turn >> _U(6) & _U(2)), begun


@inlined
def _begin(starts, at, turns, begun):
    """Return the state of a walk that begins at a bit, as if an MCU started there."""
    starts[0], starts[1] = at, _U(0)
    return at, turns[0], _U(0), _U(0), _U(0), begun


@compiled
def _walk_on(stream, state, starts, limit, most, mcu):
    """Move a walk on to a bit, or until it has found as many MCUs as an image has; return its state."""
    turns, ahead = mcu.turns, mcu.tables.ahead
    while state[0] < limit and state[4] < most:
        then, odd = _step(stream, state, starts, turns, ahead)
        state = _odd_step(stream, state, starts, mcu) if odd else then
    return state


@compiled
def _walk_halves(stream, last, most, found, mcu):
    """Walk over both halves of a stream at once, over the second one nearly to its end; return the two states.

    The processor does the steps of both walks at the same time, while those of one wait for each other. Only the first
    begins where an MCU starts. The second one reads nonsense at first.
    """
    turns, ahead = mcu.turns, mcu.tables.ahead
    half = last // _U(2)
    end = last - min(half, _U(_END_BITS))
    one, two = _begin(found[0], _U(0), turns, _U(0)), _begin(found[1], half, turns, _U(0))
    starts, others = found[0], found[1]
    while one[0] < half and two[0] < end and max(one[4], two[4]) < most:
        for _ in range(_STRIDE):
            after_one, odd_one = _step(stream, one, starts, turns, ahead)
            after_two, odd_two = _step(stream, two, others, turns, ahead)
            if odd_one | odd_two:
                after_one = _odd_step(stream, one, starts, mcu) if odd_one else after_one
                after_two = _odd_step(stream, two, others, mcu) if odd_two else after_two
            one, two = after_one, after_two
    return _walk_on(stream, one, starts, half, most, mcu), _walk_on(stream, two, others, end, most, mcu)


@compiled
def index(stream, length, mcus, found, mcu):
    """Find all MCUs of an image.

    Two walks that come to the start of an MCU at the same bit go the same way from there. Huffman codes fall into step
    soon, so the first walk goes on to the first start that the second one found, too, and takes over what follows.

    Args:
        stream: (n,) uint8 of `unstuff`, with SLACK and MAX_MCU_BYTES to spare.
        length: Bytes of the stream.
        mcus: MCUs of the image.
        found: (2, 2 * (mcus + ROOM)) uint64; row 0 is set to the bit at which each MCU starts, and that after the last,
            each with the sums of the DC differences before it.
        mcu: The `Mcu`.

    Returns:
        1; 0 if the stream is broken or does not end with the image.
    """
    last, most = _U(8 * length), _U(2 * mcus)
    one, two = _walk_halves(stream, last, most, found, mcu)
    starts, others, place = found[0], found[1], _U(0)
    while one[4] < most and one[5] == _U(0) and one[0] <= last:
        one = _walk_on(stream, one, starts, last + _U(1), one[4] + _U(2), mcu)
        while place <= two[4] and others[place] < one[0]:
            place += _U(2)
        if place <= two[4] and others[place] == one[0] and starts[one[4]] == one[0]:
            further, offset = two[4] - place, one[3] - others[place + _U(1)]
            if one[4] + further > most:
                return 0
            for step in range(_U(2), further + _U(2), _U(2)):
                starts[one[4] + step] = others[place + step]
                starts[one[4] + step + _U(1)] = others[place + step + _U(1)] + offset
            one = (two[0], two[1], two[2], two[3] + offset, one[4] + further, one[5])
            place = two[4] + _U(2)
    # only the bits that fill the last byte may remain
    complete = one[4] == most and one[5] == _U(0) and starts[most] <= last
    return 1 if complete and last - starts[most] < _U(8) else 0


@compiled
def _put(out, to, value, bits):
    """Write up to 32 bits at any bit position; return the bit after them.

    The bits are aligned to the byte they begin in: what was written of it is kept, four more bytes are overwritten.
    """
    word, place = value << (_U(40) - (to & _U(7)) - bits), to >> _U(3)
    before = _U(out[place]) & ~(_U(255) >> (to & _U(7)))
    out[place] = np.uint8(before | (word >> _U(32)))
    for byte in range(1, 5):
        out[place + _U(byte)] = np.uint8((word >> _U(32 - 8 * byte)) & _U(255))
    return to + bits


@compiled
def _copy(stream, start, end, out, to):
    """Copy bits of the stream; return the bit after them in `out`."""
    if end - start > _U(64):
        head = (_U(8) - (to & _U(7))) & _U(7)  # bits up to a byte of `out`; whole bytes need no masks
        word = _load(stream, start >> _U(3)) << (start & _U(7))
        if head:
            to = _put(out, to, word >> (_U(64) - head), head)
            start += head
        while start + _U(32) <= end:
            word = _load(stream, start >> _U(3)) << (start & _U(7))
            place = to >> _U(3)
            for byte in range(4):
                out[place + _U(byte)] = np.uint8((word >> _U(56 - 8 * byte)) & _U(255))
            start += _U(32)
            to += _U(32)
    while start < end:
        bits = min(_U(32), end - start)
        word = _load(stream, start >> _U(3)) << (start & _U(7))
        to = _put(out, to, word >> (_U(64) - bits), bits)
        start += bits
    return to


@compiled
def _block_end(stream, at, table, tables):
    """Return the bit after a block of a stream that is not broken."""
    position = _U(0)
    while position != _U(64):
        _, used, position = _symbol(stream, at, table, position, tables)
        at += used
    return at


@compiled
def _first_mcu(stream, at, before, coded, mcu, out, to):
    """Copy the first MCU of a row of a region.

    Its left neighbour is not in the region. So the first difference of each component is recoded relative to the
    last block that was copied; all other bits stay as they are.

    Args:
        stream: (n,) uint8 of `unstuff`.
        at: Bit to begin at.
        before: Sums before the MCU in the file.
        coded: Sums before the MCU in `out`.
        mcu: The `Mcu`.
        out, to: uint8, and the bit to write at.

    Returns:
        The bit after it in the stream and in `out` (0: the file has no code for a new difference).
    """
    seen = 0  # bit set of components
    for block in range(mcu.blocks.shape[0]):
        table, part = _U(mcu.blocks[block, 0]), mcu.blocks[block, 1]
        after = _block_end(stream, at, table, mcu.tables)
        if not seen >> part & 1:
            seen |= 1 << part
            difference, used = _difference(stream, at, mcu.tables.dc_codes, table)
            value = _sum_of(before, part) + difference - _sum_of(coded, part)
            size = 0
            while size < 12 and abs(value) >> size:
                size += 1
            word = mcu.code_words[table, size] if size < 12 else 0
            if word == 0:
                return at, _U(0)
            to = _put(out, to, _U(word >> 8), _U(word & 255))
            to = _put(out, to, _U(value if value >= 0 else value + (1 << size) - 1), _U(size))
            at += used
        to = _copy(stream, at, after, out, to)
        at = after
    return at, to


@compiled
def cut(stream, starts, columns, region, mcu, out):
    """Copy a region of MCUs into a stream of its own.

    A row of the region is its first MCU, newly coded, and then the bits up to its right edge, copied at once: later
    differences refer to blocks of the region.

    Args:
        stream: (n,) uint8 of `unstuff`.
        starts: (m,) uint64, row 0 of the result of `index`.
        columns: MCUs per row of the image.
        region: left, top, right, bottom, in MCUs.
        mcu: The `Mcu`.
        out: uint8, larger than the stream by MAX_ROW_BYTES for each row of MCUs.

    Returns:
        Bits written; 0 if the first differences of a row have no code.
    """
    left, top, right, bottom = region
    coded, to = _U(0), _U(0)
    for row in range(top, bottom):
        first, end = 2 * (row * columns + left), 2 * (row * columns + right)
        at, to = _first_mcu(stream, starts[first], starts[first + 1], coded, mcu, out, to)
        if to == _U(0):
            return to
        to = _copy(stream, at, starts[end], out, to)
        coded = starts[end + 1]
    return to


@compiled
def stuff(stream, bits, out):
    """Fill the last byte up with ones and insert a zero after each 0xff, as `unstuff` expects it.

    Args:
        stream: uint8 of `cut`.
        bits: Length of the stream in bits.
        out: uint8, twice as long as `stream`.

    Returns:
        Bytes in `out`.
    """
    last, at, to = _U((bits + 7) >> 3), _U(0), _U(0)
    if bits & 7:
        stream[last - _U(1)] |= np.uint8((1 << (8 - (bits & 7))) - 1)
    while at < last:
        count = _U(8)
        if at + count > last or _has_ff(_load(stream, at)):
            count = _U(1)
        for byte in range(count):
            out[to + _U(byte)] = stream[at + _U(byte)]
        to += count
        if count == _U(1) and out[to - _U(1)] == 255:
            out[to] = 0
            to += _U(1)
        at += count
    return to
