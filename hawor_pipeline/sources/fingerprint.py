"""Content hashes of many files, without reading again what did not change.

A digest covers names and bytes. Images are hashed by XXH3 (128 bits), as fast as memory is read: a digest shows that
something changed, it is no proof against forgery. The cache remembers, for each label, the digest that belonged to a
state of the files (names, sizes, modification times); only where that state differs are the files read again.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import atomic_write_json, hash_json, sha256_file
from hawor_pipeline.sources.image_files import ImageFile

_IMAGE_HASH = "xxh3_128"
_THREADS = 2  # hashing releases the interpreter lock; more threads only fight over the disk


def hash_files(files: Iterable[Path], below: Path | None = None) -> dict[str, str]:
    """File name to sha256.

    Args:
        files: with different names, where `below` is None.
        below: a folder above all files; they go by their path from there, for files whose bare names repeat.

    Raises:
        DataError: a file cannot be read.
    """
    files = list(files)
    names = [file.relative_to(below).as_posix() if below else file.name for file in files]
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(names, pool.map(sha256_file, files, chunksize=16), strict=True))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); get the file again.") from None


def file_states(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """(name, size in bytes, modification time in ns) of each file.

    Raises:
        DataError: one is not there.
    """
    try:
        return [(file.name, (found := file.stat()).st_size, found.st_mtime_ns) for file in files]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); get the file again.") from None


class ImageHashes:
    """The digest of a view's images, taken while they are read for something else.

    One for each view: images go by their bare names, which cameras share.
    """

    def __init__(self) -> None:
        self._hashes: dict[str, str] = {}

    def add(self, image: ImageFile, data: bytes) -> None:
        """Take one image into account."""
        self._hashes[image.name] = xxhash.xxh3_128_hexdigest(data)

    @property
    def digest(self) -> str:
        """Over all names and bytes."""
        return hash_json(self._hashes)


def digest_images(images: Iterable[ImageFile]) -> str:
    """Digest of names and bytes, of files and of members of zips alike.

    Raises:
        DataError: an image cannot be read.
    """
    hashes = ImageHashes()
    images = list(images)
    with ThreadPoolExecutor(_THREADS) as pool:
        for image, data in zip(images, pool.map(ImageFile.read, images), strict=True):
            hashes.add(image, data)
    return hashes.digest


class DigestCache:
    """Digests by label, kept in one JSON file; a damaged or missing file only costs time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            self._known: dict[str, dict[str, str]] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._known = {}

    def known(self, label: str, state: str) -> str | None:
        """The digest that belongs to a state, if it was seen before."""
        entry = self._known.get(label, {})
        return entry.get("digest") if (entry.get("hash"), entry.get("state")) == (_IMAGE_HASH, state) else None

    def remember(self, label: str, state: str, digest: str) -> None:
        """Keep the digest of a state."""
        if self.known(label, state) != digest:
            self._known[label] = {"state": state, "digest": digest, "hash": _IMAGE_HASH}
            self._changed = True

    def save(self) -> None:
        """Write what was learnt."""
        if self._changed:
            atomic_write_json(self._path, self._known)
            self._changed = False
