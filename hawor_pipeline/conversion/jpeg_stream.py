"""Walking through the entropy-coded blocks of a JPEG without decoding them, compiled.

A baseline JPEG has no index: to find a block one has to read all before it. Here a block is read by looking up several
of its symbols at once, and only what is needed to go on is kept: where the next block begins and the sum of the
differences that its average colour is coded by. The functions are compiled at their first use, and kept on disk.

Source: ITU-T T.81, annexes F.1.2 and F.2.2.
"""

import numpy as np

from hawor_pipeline.conversion.compiled import compiled, inlined

LOOK_BITS = 13  # of the stream that one look-up sees; more would not fit into a fast cache
SLACK = 16  # bytes past the end of a stream that may be read
MAX_MCU_BYTES = 10 * 64 * 4  # ten blocks, 64 coefficients, at most 31 bits each
MAX_ROW_BYTES = 3 * 4  # by which the first differences of a row may grow, one of each component

_U = np.uint64
_ONES, _HIGH = _U(0x0101010101010101), _U(0x8080808080808080)
_BROKEN = -1
_MOST_AHEAD = 62  # coefficients in one look-up: with one more, a block may be complete without a symbol that says so


@inlined
def _load(stream, at):
    """Eight bytes, the first one highest."""
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
    """Whether one of eight bytes is 0xff."""
    return ((~word - _ONES) & word & _HIGH) != _U(0)


@compiled
def unstuff(data, start, most, out):
    """Copy a scan without the zeros that follow each 0xff in it.

    Args:
        data: (n,) uint8, the file.
        start: where the scan begins.
        most: of the file's bytes to look at; then it stops, as if the scan ended there.
        out: uint8, at least as long as what is left of the file.

    Returns:
        Bytes of the scan, -1 where the file ends before it or another marker than the last interrupts it.
    """
    at, to, last = _U(start), _U(0), _U(data.size)
    while at < last:
        if at >= _U(most):
            return np.int64(to)
        if at + _U(8) <= last:
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
            return np.int64(to) if data[at + _U(1)] == 0xD9 else np.int64(_BROKEN)
        out[to] = 255
        at += _U(2)
        to += _U(1)
    return np.int64(_BROKEN)


@inlined
def _is_odd(symbol):
    """Whether a symbol of coefficients is none of a sequential JPEG: no bits, and neither the end nor 16 zeros."""
    return symbol & 15 == 0 and symbol != 0xF0


@compiled
def _runs(codes, window, used, look):
    """How far the symbols of coefficients go that begin and end inside a window.

    Returns:
        Bits, coefficients, whether the block ended.
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
    """What can be known from the next bits of the stream.

    Args:
        dc_codes: (65536,) int32, length << 8 | symbol by the next 16 bits; 0: no such code.
        ac_codes: the same of the other coefficients.
        look: bits that one look-up sees.

    Returns:
        Two tables (2**look,). Of a block's beginning, int32: difference << 16 | coefficients << 8 | ended << 7 | bits;
        of what follows, uint16: coefficients << 8 | ended << 7 | bits. 0 where not even one symbol is complete.
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
        if size > 0 and difference < 1 << (size - 1):
            difference -= (1 << size) - 1
        used, coefficients, ended = _runs(ac_codes, window, length + size, look)
        first[window] = difference << 16 | coefficients << 8 | ended << 7 | used
    return first, further


@compiled
def _difference(stream, at, codes, table):
    """Read the difference that a block begins with: its value and its bits (0: no such code)."""
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


@compiled
def _walk(stream, at, last, count, sums, parts, part_tables, tables):
    """Walk over MCUs.

    Args:
        stream: of `unstuff`.
        at, last: bit to begin at, bit to end before.
        count: MCUs.
        sums: (components,) int64, of the differences so far; is changed.
        parts: (blocks of an MCU,) which component each belongs to.
        part_tables: (blocks of an MCU,) uint64, which pair of tables each is read with.
        tables: see `cut`.

    Returns:
        The bit after them; 0 where the stream is broken.
    """
    dc_codes, ac_codes, first, further, look = tables
    bits, shift, blocks = _U(look), _U(64 - look), parts.size
    for _ in range(count):
        for block in range(blocks):
            table = part_tables[block]
            word = _load(stream, at >> _U(3)) << (at & _U(7))
            found = first[(table << bits) | (word >> shift)]
            if found:
                sums[parts[block]] += np.int64(found >> 16)
                used = _U(found) & _U(127)
                if found & 128:
                    at += used
                    continue
                position = _U(1) + (_U(found >> 8) & _U(255))
            else:
                value, used = _difference(stream, at, dc_codes, table)
                if used == _U(0):
                    return _U(0)
                sums[parts[block]] += value
                position = _U(1)
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
                    code = ac_codes[(table << _U(16)) | (word >> _U(48))]
                    if code == 0:
                        return _U(0)
                    symbol = _U(code & 255)
                    step = _U(code >> 8) + (symbol & _U(15))
                    word <<= step
                    used += step
                    if symbol == _U(0):
                        break
                    position += (symbol >> _U(4)) + _U(1)
                    if position > _U(64) or _is_odd(code & 255):
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
    """Write up to 32 bits, whatever is there; returns the bit after them."""
    word, place = value << (_U(40) - (to & _U(7)) - bits), to >> _U(3)
    before = _U(out[place]) & ~(_U(255) >> (to & _U(7)))
    out[place] = np.uint8(before | (word >> _U(32)))
    for byte in range(1, 5):
        out[place + _U(byte)] = np.uint8((word >> _U(32 - 8 * byte)) & _U(255))
    return to + bits


@compiled
def _copy(stream, start, end, out, to):
    """Copy bits of the stream; returns the bit after them in `out`."""
    if end - start > _U(64):
        head = (_U(8) - (to & _U(7))) & _U(7)  # from there on whole bytes are written
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
def _first_mcu(stream, at, last, sums, coded, parts, part_tables, tables, code_words, out, to):
    """Copy an MCU whose neighbour on the left is no longer the one that its differences were taken from.

    Returns:
        The bit after it in the stream (0: broken) and in `out` (0: a difference that the file's code lacks).
    """
    seen = 0
    for block in range(parts.size):
        part = parts[block]
        value, bits = _difference(stream, at, tables[0], part_tables[block])
        after = _walk(stream, at, last, 1, sums, parts[block : block + 1], part_tables[block : block + 1], tables)
        if after == _U(0):
            return _U(0), to
        if not seen >> part & 1:
            seen |= 1 << part
            value = sums[part] - coded[part]
            size = 0
            while size < 12 and abs(value) >> size:
                size += 1
            word = code_words[part_tables[block], size] if size < 12 else 0
            if word == 0:
                return at, _U(0)
            to = _put(out, to, _U(word >> 8), _U(word & 255))
            to = _put(out, to, _U(value if value >= 0 else value + (1 << size) - 1), _U(size))
            to = _copy(stream, at + bits, after, out, to)
        else:
            to = _copy(stream, at, after, out, to)
        at = after
    return at, to


@compiled
def cut(stream, length, grid, regions, parts, part_tables, tables, code_words, out, bits):
    """Take some MCUs out of a stream, so that they are streams by themselves. All is read but once.

    Args:
        stream: (n,) uint8 of `unstuff`, with SLACK and MAX_MCU_BYTES to spare.
        length: its bytes.
        grid: MCUs in a row.
        regions: (R, 4) int64, left, top, right, bottom, in MCUs. They may overlap.
        parts: (blocks of an MCU,) int64, which component each belongs to.
        part_tables: (blocks of an MCU,) uint64, which pair of tables each is read with.
        tables: DC codes and AC codes of all pairs, one after the other; the two tables of `look_up_tables`, likewise;
            the bits that a look-up sees.
        code_words: (pairs, 12) int64, code << 8 | length of each size of a difference; 0: no such code.
        out: (R, m) uint8, m larger than n by MAX_ROW_BYTES for each row of MCUs.
        bits: (R,) uint64, is set to the bits written of each region.

    Returns:
        1; 0 where the stream is broken or ends too early, -1 where a region's first differences cannot be coded.
    """
    count, last = regions.shape[0], _U(8 * length)
    sums, ahead = np.zeros(4, np.int64), np.zeros(4, np.int64)
    coded, began = np.zeros((count, 4), np.int64), np.zeros(count, np.uint64)
    bits[:] = _U(0)
    top, bottom, at = regions[:, 1].min(), regions[:, 3].max(), _U(0)
    if top:
        at = _walk(stream, at, last, top * grid, sums, parts, part_tables, tables)
        if at == _U(0):
            return 0
    for row in range(top, bottom):
        column = 0
        while column < grid:
            stop, needed = grid, row + 1 < bottom
            for region in range(count):
                if not regions[region, 1] <= row < regions[region, 3]:
                    continue
                left, right = regions[region, 0], regions[region, 2]
                if left == column:
                    ahead[:] = sums
                    began[region], bits[region] = _first_mcu(
                        stream,
                        at,
                        last,
                        ahead,
                        coded[region],
                        parts,
                        part_tables,
                        tables,
                        code_words,
                        out[region],
                        bits[region],
                    )
                    if began[region] == _U(0) or bits[region] == _U(0):
                        return 0 if began[region] == _U(0) else -1
                if right > column:
                    stop, needed = min(stop, left if left > column else right), True
            if not needed:
                break
            at = _walk(stream, at, last, stop - column, sums, parts, part_tables, tables)
            if at == _U(0):
                return 0
            column = stop
            for region in range(count):
                if regions[region, 1] <= row < regions[region, 3] and regions[region, 2] == column:
                    bits[region] = _copy(stream, began[region], at, out[region], bits[region])
                    coded[region] = sums
    return 1


@compiled
def stuff(stream, bits, out):
    """Fill the last byte up with ones and put a zero after each 0xff.

    Args:
        stream: uint8, of `cut`.
        bits: of it.
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
