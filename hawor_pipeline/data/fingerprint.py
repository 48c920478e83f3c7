"""Content hashes of many files, without reading again what did not change.

A digest covers names and bytes. The cache remembers, for each label, the digest that belonged to a state of the folder
(names, sizes, modification times); only where that state differs are the files read again.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import atomic_write_json, hash_json, sha256_file

_THREADS = 2  # hashing releases the interpreter lock; more threads only fight over the disk


def hash_files(files: Iterable[Path]) -> dict[str, str]:
    """File name to sha256.

    Raises:
        DataError: a file cannot be read.
    """
    files = list(files)
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip((file.name for file in files), pool.map(sha256_file, files, chunksize=16), strict=True))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); get the file again.") from None


class DigestCache:
    """Digests by label, kept in one JSON file; a damaged or missing file only costs time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            self._known: dict[str, dict[str, str]] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._known = {}

    def digest(self, label: str, files: Iterable[Path]) -> str:
        """Digest of names and bytes of the files; "" where there are none."""
        files = list(files)
        if not files:
            return ""
        state = hash_json([[file.name, (found := file.stat()).st_size, found.st_mtime_ns] for file in files])
        known = self._known.get(label)
        if known is None or known.get("state") != state:
            known = {"state": state, "digest": hash_json(hash_files(files))}
            self._known[label] = known
            self._changed = True
        return known["digest"]

    def save(self) -> None:
        """Write what was learnt."""
        if self._changed:
            atomic_write_json(self._path, self._known)
            self._changed = False
