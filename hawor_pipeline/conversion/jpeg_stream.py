"""Copying blocks out of the entropy-coded part of a JPEG without decoding it, compiled by numba.

A scan is a sequence of MCUs (minimum coded units, the 8x8 blocks that cover one patch of the image), row by row, each
block Huffman-coded bit after bit. A baseline JPEG has no index: a block can only be found by reading all blocks before
it. Two things are needed of each block on the way: its length in bits, and its DC difference. DC, the block's average
colour, is coded as the difference to the block before it of the same component, so the sums of all differences are the
state in which the next block is read. AC coefficients are skipped, several symbols per table lookup.

Restart markers would reset that state and align the stream to bytes; `jpeg_cut` refuses such files, so that nothing
here has to look for them.

Bit positions and stream words are uint64 everywhere: numba turns a mix of signed and unsigned integers into floats.

Source: ITU-T T.81, annexes F.1.2 and F.2.2.
"""

from typing import NamedTuple

import numpy as np

from hawor_pipeline.conversion.compiled import compiled, inlined

LOOK_BITS = 13  # of the stream per table lookup: with more, the tables (3 x 8192 entries) leave the fast cache
SLACK = 16  # bytes past the end of a stream that may be read
MAX_MCU_BYTES = 10 * 64 * 4  # ten blocks, 64 coefficients, at most 31 bits each
MAX_ROW_BYTES = 3 * 4  # growth of a row by its newly coded first differences, one per component

_U = np.uint64
_ONES, _HIGH = _U(0x0101010101010101), _U(0x8080808080808080)
_BROKEN = -1
_MOST_AHEAD = 62  # coefficients per lookup: one more could complete a block without an end-of-block symbol


class Tables(NamedTuple):
    """Huffman tables of all pairs (one for DC, one for AC) of a scan, each pair's behind the previous one's."""

    dc_codes: np.ndarray  # (pairs * 65536,) int32, length << 8 | symbol by the next 16 bits; 0: no such code
    ac_codes: np.ndarray  # (pairs * 65536,) int32, the same for the other coefficients
    first: np.ndarray  # (pairs * 2**look,) int32, see `look_up_tables`
    further: np.ndarray  # (pairs * 2**look,) uint16, see `look_up_tables`
    look: int  # bits per lookup


class Mcu(NamedTuple):
    """Layout of an MCU: its blocks in stream order, and the codes they are written with."""

    parts: np.ndarray  # (blocks,) int64, component of each block
    part_tables: np.ndarray  # (blocks,) uint64, pair of tables of each block
    tables: Tables
    code_words: np.ndarray  # (pairs, 12) int64, code << 8 | length of each size of a DC difference; 0: no such code


@inlined
def _load(stream, at):
    """Read eight bytes, most significant first, at any alignment."""
    return (
        (_U(stream[at]) << _U(56))
        | (_U(stream[at + _U(1)]) << _U(48))
        | (_U(stream[at + _U(2)]) << _U(40))
        | (_U(stream[at + _U(3)]) << _U(32))
        | (_U(stream[at + _U(4)]) << _U(24))
        | (_U(stream[at + _U(5)]) << _U(16))
        | (_U(stream[at + _U(6)]) << _U(8))
        | _U(stream[at + _U(7)])
    )


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


@compiled
def look_up_tables(dc_codes, ac_codes, look):
    """Tabulate all that the next bits of a stream determine.

    Args:
        dc_codes: (65536,) int32 of one pair, see `Tables`.
        ac_codes: (65536,) int32 of one pair.
        look: Bits per lookup.

    Returns:
        Two tables (2**look,). For the start of a block, int32: difference << 16 | coefficients << 8 | ended << 7 |
        bits; for its rest, uint16: coefficients << 8 | ended << 7 | bits. 0 if no symbol is complete.
    """
    count = 1 << look
    first, further = np.zeros(count, np.int32), np.zeros(count, np.uint16)
    for window in range(count):
        used, coefficients, ended = _runs(ac_codes, window, 0, look)
        further[window] = coefficients << 8 | ended << 7 | used
        code = dc_codes[window << (16 - look)]
        length, size = code >> 8, code & 255
        if code == 0 or size > 11 or length + size > look:
            continue
        difference = (window >> (look - length - size)) & ((1 << size) - 1)
        if size > 0 and difference < 1 << (size - 1):  # a first bit of 0 marks a negative value
            difference -= (1 << size) - 1
        used, coefficients, ended = _runs(ac_codes, window, length + size, look)
        first[window] = difference << 16 | coefficients << 8 | ended << 7 | used
    return first, further


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
def _walk(stream, at, last, count, sums, parts, part_tables, tables):
    """Walk over MCUs and sum up their DC differences.

    `word` holds the next bits of the stream, highest first. A load at any bit gives at least 57 of them, so a code of
    16 bits is still inside after 31 were used, and most symbols need no load.

    Args:
        stream: (n,) uint8 of `unstuff`.
        at, last: Bit to begin at, bit to end before.
        count: Number of MCUs.
        sums: (components,) int64, sums of the differences so far; is changed.
        parts, part_tables, tables: See `Mcu`.

    Returns:
        The bit after the MCUs; 0 if the stream is broken.
    """
    first, further = tables.first, tables.further
    bits, shift = _U(tables.look), _U(64 - tables.look)
    for _ in range(count):
        for block in range(parts.size):
            table = part_tables[block]
            word = _load(stream, at >> _U(3)) << (at & _U(7))
            found = first[(table << bits) | (word >> shift)]
            value, used = np.int64(found >> 16), _U(found) & _U(127)
            if not found:
                value, used = _difference(stream, at, tables.dc_codes, table)
                if used == _U(0):
                    return _U(0)
            sums[parts[block]] += value
            if found & 128:
                at += used
                continue
            position = _U(1) + (_U(found >> 8) & _U(255))
            word <<= used
            while True:
                found = further[(table << bits) | (word >> shift)]
                step = _U(found) & _U(127)
                reached = position + _U(found >> 8)
                if step and reached < _U(64):
                    word <<= step
                    used += step
                    position = reached
                    if found & 128:
                        break
                else:
                    step, position = _skip_symbol(tables.ac_codes, table, word, position)
                    word <<= step
                    used += step
                    if step == _U(0):
                        return _U(0)
                    if position == _U(64):
                        break
                if used > _U(31):
                    at += used
                    used = _U(0)
                    word = _load(stream, at >> _U(3)) << (at & _U(7))
            at += used
        if at > last:
            return _U(0)
    return at


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
def _first_mcu(stream, at, last, sums, coded, mcu, out, to):
    """Copy the first MCU of a row of a region.

    Its left neighbour is not in the region. So the first difference of each component is recoded relative to the
    last block that was copied; all other bits stay as they are.

    Args:
        stream: (n,) uint8 of `unstuff`.
        at, last: Bit to begin at, bit to end before.
        sums: (components,) int64, DC before the MCU in the file; is changed to that after it.
        coded: (components,) int64, DC before the MCU in `out`.
        mcu: The `Mcu`.
        out, to: uint8, and the bit to write at.

    Returns:
        The bit after it in the stream (0: broken) and in `out` (0: the file has no code for a new difference).
    """
    seen = 0  # bit set of components
    for block in range(mcu.parts.size):
        part, table = mcu.parts[block], mcu.part_tables[block]
        one = slice(block, block + 1)
        after = _walk(stream, at, last, 1, sums, mcu.parts[one], mcu.part_tables[one], mcu.tables)
        if after == _U(0):
            return _U(0), to
        if not seen >> part & 1:
            seen |= 1 << part
            value = sums[part] - coded[part]
            size = 0
            while size < 12 and abs(value) >> size:
                size += 1
            word = mcu.code_words[table, size] if size < 12 else 0
            if word == 0:
                return at, _U(0)
            to = _put(out, to, _U(word >> 8), _U(word & 255))
            to = _put(out, to, _U(value if value >= 0 else value + (1 << size) - 1), _U(size))
            at += _difference(stream, at, mcu.tables.dc_codes, table)[1]
        to = _copy(stream, at, after, out, to)
        at = after
    return at, to


@compiled
def cut(stream, length, grid, regions, mcu, out, bits):
    """Copy regions of MCUs into streams of their own, in one pass.

    A row of a region is its first MCU, newly coded, and then the bits up to its right edge, copied at once: later
    differences refer to blocks of the region. The walk goes on to the last MCU of the image: a damaged block hides
    those after it, and mostly shows only by their number.

    Args:
        stream: (n,) uint8 of `unstuff`, with SLACK and MAX_MCU_BYTES to spare.
        length: Bytes of the stream.
        grid: (rows, columns) of MCUs of the image.
        regions: (R, 4) int64, left, top, right, bottom, in MCUs. They may overlap.
        mcu: The `Mcu`.
        out: (R, m) uint8, m larger than n by MAX_ROW_BYTES for each row of MCUs.
        bits: (R,) uint64, is set to the number of bits written per region.

    Returns:
        1; 0 if the stream is broken or does not end with the image, -1 if the first differences of a region have no
        code.
    """
    columns = grid[1]
    count, last = regions.shape[0], _U(8 * length)
    sums, ahead = np.zeros(4, np.int64), np.zeros(4, np.int64)
    coded, began = np.zeros((count, 4), np.int64), np.zeros(count, np.uint64)
    bits[:] = _U(0)
    top, bottom, at = regions[:, 1].min(), regions[:, 3].max(), _U(0)
    if top:
        at = _walk(stream, at, last, top * columns, sums, mcu.parts, mcu.part_tables, mcu.tables)
        if at == _U(0):
            return 0
    for row in range(top, bottom):
        column = 0
        while column < columns:
            stop, needed = columns, row + 1 < bottom
            for region in range(count):
                if not regions[region, 1] <= row < regions[region, 3]:
                    continue
                left, right = regions[region, 0], regions[region, 2]
                if left == column:
                    ahead[:] = sums  # another region may begin here, or have begun: the walk below reads it again
                    begin = _first_mcu(stream, at, last, ahead, coded[region], mcu, out[region], bits[region])
                    began[region], bits[region] = begin
                    if began[region] == _U(0) or bits[region] == _U(0):
                        return 0 if began[region] == _U(0) else -1
                if right > column:
                    stop, needed = min(stop, left if left > column else right), True
            if not needed:
                break
            at = _walk(stream, at, last, stop - column, sums, mcu.parts, mcu.part_tables, mcu.tables)
            if at == _U(0):
                return 0
            column = stop
            for region in range(count):
                if regions[region, 1] <= row < regions[region, 3] and regions[region, 2] == column:
                    bits[region] = _copy(stream, began[region], at, out[region], bits[region])
                    coded[region] = sums
    rest = (grid[0] - bottom + 1) * columns - column
    at = _walk(stream, at, last, rest, sums, mcu.parts, mcu.part_tables, mcu.tables)
    return 1 if at and last - at < _U(8) else 0  # only the bits that fill the last byte may remain


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
