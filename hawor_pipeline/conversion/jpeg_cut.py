"""Cutting regions out of a JPEG without decoding it: smaller JPEGs with the same blocks.

Decoding a large image takes most of its time on blocks that no crop needs. A `JpegCutter` walks over them about twice
as fast as a decoder, which then gets a small image. Its pixels equal those of the whole image except for the outermost,
where colour is upsampled across the cut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hawor_pipeline.conversion.jpeg_stream import (
    LEAST_BLOCK_BITS,
    LOOK_BITS,
    MAX_MCU_BYTES,
    MAX_ROW_BYTES,
    ROOM,
    SLACK,
    Mcu,
    Tables,
    cut,
    index,
    look_up_tables,
    stuff,
    unstuff,
)

MARGIN_PX = 2  # of the decoded image: reach of the upsampling of colour
_LEAST_ACROSS = 3  # MCUs: libjpeg does not interpolate colour in images of only two columns of it
_BLOCK = 8
_FRAMES, _HUFFMAN, _RESTART, _SCAN = (0xC0, 0xC1), 0xC4, 0xDD, 0xDA
_WHOLE_SPECTRUM = (0, 63, 0)
_END = b"\xff\xd9"
_MOST_BLOCKS = 10  # in an MCU, by the standard
_SIZES = 12  # bits of a DC difference, 0 to 11, in an image of 8 bits per sample


@dataclass(frozen=True, slots=True)
class _Component:
    """Storage of one component of an image."""

    across: int  # blocks in an MCU
    down: int
    tables: tuple[int, int]  # its codes: numbers of the DC and the AC table


@dataclass(frozen=True, slots=True)
class _Header:
    """Contents of a file before the coded blocks."""

    size_at: int  # position of height and width
    size: tuple[int, int]  # (height, width)
    components: tuple[_Component, ...]
    codes: bytes  # the definitions of all code tables
    start: int  # of the coded blocks


@dataclass(frozen=True, slots=True)
class _Reader:
    """Parameters of `jpeg_stream.cut` for all images with the same header."""

    mcu_px: tuple[int, int]  # (height, width) of an MCU
    mcu: Mcu


def _read_header(data: bytes) -> _Header | None:
    """Parse the segments before the scan; return None unless the file is sequential, in one scan, without restarts."""
    at, codes, size_at, size, sampling = 2, b"", 0, (0, 0), {}
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in _FRAMES:
            size_at, size = at + 5, (int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"))
            sampling = {body[6 + 3 * part]: body[7 + 3 * part] for part in range(body[5])}
            if body[0] != 8:  # bits of a sample
                return None
        elif marker == _HUFFMAN:
            codes += body
        elif marker == _RESTART and any(body):
            return None
        elif marker == _SCAN:
            chosen = {body[1 + 2 * part]: body[2 + 2 * part] for part in range(body[0])}
            plain = tuple(body[-3:]) == _WHOLE_SPECTRUM and list(sampling) == list(chosen) and all(size)
            if not plain or len(sampling) not in (1, 3):
                return None
            factors = [divmod(both, 16) for both in sampling.values()]
            if not all(map(all, factors)) or sum(across * down for across, down in factors) > _MOST_BLOCKS:
                return None
            components = tuple(
                _Component(*((1, 1) if len(sampling) == 1 else divmod(factors, 16)), divmod(chosen[number], 16))
                for number, factors in sampling.items()
            )
            return _Header(size_at, size, components, codes, at + 2 + length)
        at += 2 + length
    return None


@lru_cache(maxsize=16)
def _reader(components: tuple[_Component, ...], codes: bytes) -> _Reader:
    """Build the tables of all images with the same header.

    Raises:
        ValueError: A code table is damaged or missing.
    """
    defined = _code_tables(codes)
    pairs = list(dict.fromkeys(component.tables for component in components))
    try:
        by_bits = [(_by_bits(*defined[dc]), _by_bits(*defined[16 + ac])) for dc, ac in pairs]
    except KeyError:
        raise ValueError("a code table is missing") from None
    ahead = [look_up_tables(dc, ac) for dc, ac in by_bits]
    blocks = [
        (pairs.index(one.tables), part) for part, one in enumerate(components) for _ in range(one.across * one.down)
    ]
    dc_codes, ac_codes = (np.concatenate(of_all) for of_all in zip(*by_bits, strict=True))
    return _Reader(
        mcu_px=(_BLOCK * max(one.down for one in components), _BLOCK * max(one.across for one in components)),
        mcu=Mcu(
            blocks=np.array(blocks, np.int64),
            turns=np.array(_turns(blocks), np.uint64),
            tables=Tables(dc_codes, ac_codes, np.concatenate(ahead)),
            code_words=np.array([_code_words(*defined[dc]) for dc, _ in pairs], np.int64),
        ),
    )


def _turns(blocks: list[tuple[int, int]]) -> list[int]:
    """Return `Mcu.turns` for the pair of tables and the component of each block."""
    here = [
        2 * pair << LOOK_BITS + 16 | 2 * block << 8 | 21 * component for block, (pair, component) in enumerate(blocks)
    ]
    after = [*here[1:], here[0] | 1 << 7]
    return [turn for both in zip(here, after, strict=True) for turn in both]


def _code_tables(codes: bytes) -> dict[int, tuple[bytes, bytes]]:
    """Map the number of each table (plus 16 for AC) to its counts of codes by length and its symbols."""
    tables, at = {}, 0
    while at < len(codes):
        counts = codes[at + 1 : at + 17]
        symbols = codes[at + 17 : at + 17 + sum(counts)]
        if len(counts) < 16 or len(symbols) < sum(counts):
            raise ValueError("a code table is cut short")
        tables[codes[at]] = (counts, symbols)
        at += 17 + len(symbols)
    return tables


def _assigned(counts: bytes, symbols: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (code, bits, symbol) of a table; codes of one length are consecutive, in the order of the symbols."""
    code, position = 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[position : position + count]:
            yield code, length, symbol
            code += 1
        position += count
        code <<= 1


def _by_bits(counts: bytes, symbols: bytes) -> np.ndarray:
    """Return (65536,) int32: length << 8 | symbol of the code at the start of 16 bits; 0: none."""
    table = np.zeros(1 << 16, np.int32)
    for code, length, symbol in _assigned(counts, symbols):
        table[code << (16 - length) : (code + 1) << (16 - length)] = length << 8 | symbol
    return table


def _code_words(counts: bytes, symbols: bytes) -> list[int]:
    """Return code << 8 | length for each size of a DC difference; 0: the file has no code for it."""
    words = [0] * _SIZES
    for code, length, symbol in _assigned(counts, symbols):
        if symbol < _SIZES:
            words[symbol] = code << 8 | length
    return words


@dataclass(frozen=True, slots=True)
class SmallJpeg:
    """JPEG of a region of a larger image."""

    data: bytes
    size: tuple[int, int]  # (height, width)
    left: int  # in the larger image
    top: int


class JpegCutter:
    """Cutter of regions out of JPEGs, for one thread; keeps its working memory."""

    def __init__(self) -> None:
        self._stream, self._stuffed = np.empty(0, np.uint8), np.empty(0, np.uint8)
        self._out = np.empty((0, 0), np.uint8)
        self._found = np.empty((2, 0), np.uint64)
        self._known: tuple[bytes, _Header, _Reader] | None = None

    def cut(self, data: bytes, shrink: int, regions: Sequence[tuple[int, int, int, int]]) -> list[SmallJpeg] | None:
        """Cut out each region as a JPEG of the blocks that hold it.

        Args:
            data: The JPEG.
            shrink: 1, 2, 4 or 8, the factor by which it will be shrunk while decoded.
            regions: (left, top, right, bottom) of each, pixels inside the shrunk image.

        Returns:
            The smaller JPEGs. None if the file is not a sequential JPEG in one scan without restart markers, or looks
            damaged: then it must be decoded whole, so that the decoder reports what is wrong.
        """
        known = self._header(data)
        if known is None:
            return None
        header, reader = known
        mcus = [_in_mcus(region, shrink, header.size, reader.mcu_px) for region in regions]
        if any(left >= right or top >= bottom for left, top, right, bottom in mcus):
            return None
        bits = self._copy(data, header, reader, mcus)
        if bits is None:
            return None
        return [self._small(data, known, *one) for one in zip(mcus, bits, self._out[: len(mcus)], strict=True)]

    def _small(
        self,
        data: bytes,
        known: tuple[_Header, _Reader],
        region: tuple[int, int, int, int],
        bits: int,
        stream: np.ndarray,
    ) -> SmallJpeg:
        """Wrap a stream of MCUs as a JPEG; its header is that of the larger one, except for the size."""
        header, (down, across) = known[0], known[1].mcu_px
        left, top = region[0] * across, region[1] * down
        size = (min(header.size[0], region[3] * down) - top, min(header.size[1], region[2] * across) - left)
        sized = data[: header.size_at] + size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big")
        count = stuff(stream, bits, self._stuffed)
        coded = self._stuffed[:count].data
        return SmallJpeg(b"".join((sized, data[header.size_at + 4 : header.start], coded, _END)), size, left, top)

    def _header(self, data: bytes) -> tuple[_Header, _Reader] | None:
        """Parse the header, which is mostly that of the last file; return None if the file cannot be cut."""
        if self._known is None or not data.startswith(self._known[0]):
            try:
                header = _read_header(data)
                if header is None:
                    return None
                self._known = (data[: header.start], header, _reader(header.components, header.codes))
            except (IndexError, ValueError):
                return None
        return self._known[1:]

    def _copy(
        self, data: bytes, header: _Header, reader: _Reader, regions: list[tuple[int, int, int, int]]
    ) -> list[int] | None:
        """Copy the MCUs of each region into a row of `_out`; return their bits, or None."""
        (height, width), (down, across) = header.size, reader.mcu_px
        rows, columns = -(-height // down), -(-width // across)
        if rows * columns * len(reader.mcu.blocks) * LEAST_BLOCK_BITS > 8 * len(data):
            return None  # so that a damaged size takes no memory
        length = len(data) + SLACK + MAX_MCU_BYTES + MAX_ROW_BYTES * rows
        if self._out.shape[0] < len(regions) or self._out.shape[1] < length:
            self._out = np.zeros((max(len(regions), self._out.shape[0]), max(length, self._out.shape[1])), np.uint8)
            self._stream, self._stuffed = (np.zeros(parts * self._out.shape[1], np.uint8) for parts in (1, 2))
        if self._found.shape[1] < 2 * (rows * columns + ROOM):
            self._found = np.zeros((2, 2 * (rows * columns + ROOM)), np.uint64)
        found = unstuff(np.frombuffer(data, np.uint8), header.start, self._stream)
        if found < 0 or not index(self._stream, found, rows * columns, self._found, reader.mcu):
            return None
        bits = [
            cut(self._stream, self._found[0], columns, region, reader.mcu, out)
            for region, out in zip(regions, self._out, strict=False)
        ]
        return bits if all(bits) else None


def _in_mcus(
    region: tuple[int, int, int, int], shrink: int, size: tuple[int, int], mcu: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return a region with its margin in MCUs (height, width), of an image of a size (height, width)."""
    (height, width), (down, across) = size, mcu
    left, top = (
        max(0, (edge - MARGIN_PX) * shrink) // step for edge, step in zip(region[:2], (across, down), strict=True)
    )
    right, bottom = (
        -(-min(whole, (edge + MARGIN_PX) * shrink) // step)
        for edge, whole, step in zip(region[2:], (width, height), (across, down), strict=True)
    )
    right = min(-(-width // across), max(right, left + _LEAST_ACROSS))
    return max(0, min(left, right - _LEAST_ACROSS)), top, right, bottom
