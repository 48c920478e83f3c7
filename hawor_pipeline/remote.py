"""Publishing folders to object storage (S3 or any other of fsspec) and fetching them.

A published folder keeps its layout, so DuckDB can read the tables in place. Data files are uploaded first, then the
manifests, then one index of names and hashes: whoever reads an index finds every file in it. Readers keep a local
cache, fetch only what changed, and check the hash of every file.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import replaced_file, sha256_file

REMOTE_VARIABLE = "HAWOR_REMOTE_URL"
INDEX_FILE = "_index.json"
MANIFESTS = ("manifest.json", "_stage.json")  # uploaded after everything else of a folder
_STORAGE_MODULES = ("botocore", "aiobotocore", "aiohttp")  # their errors are not OSErrors


@dataclass(frozen=True, slots=True)
class PublishedFolder:
    """Result of a publication."""

    url: str
    files: int
    uploaded: int  # files that had changed
    uploaded_bytes: int


class _FileEntry(TypedDict):
    """Entry of an index."""

    sha256: str
    bytes: int


_Index = dict[str, _FileEntry]  # by name relative to the published folder


def is_url(place: str | Path) -> bool:
    """Return whether a place has a scheme, such as s3://."""
    return "://" in str(place)


def remote_url(folder: Path) -> str | None:
    """Return the URL that a folder of the data directory is published at; None without `$HAWOR_REMOTE_URL`.

    Raises:
        ConfigError: The folder is not inside the data directory.
    """
    base = os.environ.get(REMOTE_VARIABLE)
    if not base:
        return None
    if not is_url(base):
        raise ConfigError(f"${REMOTE_VARIABLE} is {base!r}; expected a URL such as s3://bucket/prefix")
    root = DataPaths.default().root
    try:
        inner = folder.absolute().relative_to(root)
    except ValueError as error:
        raise ConfigError(
            f"{folder} is not inside the data directory {root}; only its folders are published"
        ) from error
    return f"{base.rstrip('/')}/{inner.as_posix()}"


def publish_folder(folder: Path, url: str) -> PublishedFolder:
    """Upload a folder: data first, manifests next, the index last. Files whose hash is in the index are not sent again.

    Raises:
        ConfigError: The storage cannot be reached, or its driver is not installed.
    """
    system, base = _open(url)
    before = _read_index(system, base)
    index: _Index = {}
    uploaded = sent = 0
    for path in sorted(_files(folder), key=lambda path: (path.name in MANIFESTS, path)):
        name = path.relative_to(folder).as_posix()
        index[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        if before.get(name) == index[name]:
            continue
        with _reached(url):
            system.makedirs(str(PurePosixPath(f"{base}/{name}").parent), exist_ok=True)
            system.put_file(str(path), f"{base}/{name}")
        uploaded, sent = uploaded + 1, sent + index[name]["bytes"]
    if index != before:
        with _reached(url):
            system.makedirs(base, exist_ok=True)
            system.pipe_file(f"{base}/{INDEX_FILE}", json.dumps(index, indent=1, sort_keys=True).encode())
            for name in sorted(set(before) - set(index)):
                system.rm_file(f"{base}/{name}")
    return PublishedFolder(url, len(index), uploaded, sent)


def local_copy(place: str | Path, cache: Path | None = None) -> Path:
    """Return a local folder with the content of a place; a local place is returned unchanged.

    Args:
        place: A path, or the URL of a published folder, or of a folder of such folders.
        cache: Folder of the copies; None for `cache/` of the data directory.

    Raises:
        ConfigError: Nothing is published there, or the storage cannot be reached.
        DataError: A file's hash differs from the index (it may be in the middle of a publication), or the disk is full.
    """
    if not is_url(place):
        return Path(place)
    url = str(place).rstrip("/")
    system, base = _open(url)
    indices = _indices(system, base)
    if not indices:
        raise ConfigError(f"nothing is published at {url}: no {INDEX_FILE} there; publish first, or correct the URL")
    copy = (cache or DataPaths.default().cache) / hashlib.sha256(url.encode()).hexdigest()[:16]
    expected = set()
    for prefix, index in indices.items():
        for name, entry in index.items():
            full = f"{prefix}{name}"
            _fetch(system, f"{base}/{full}", _inside(copy, full), entry)
            expected.add(full)
    for path in list(_files(copy)):
        if path.relative_to(copy).as_posix() not in expected:
            path.unlink()
    return copy


def _indices(system: Any, base: str) -> dict[str, _Index]:
    """Read the indices at a place and below it, by the prefix of their names ("" or "s01/")."""
    with _reached(base):
        found = [str(path) for path in system.find(base) if str(path).endswith(f"/{INDEX_FILE}")]
    folders = [path.removesuffix(f"/{INDEX_FILE}") for path in found]
    prefixes = {folder: folder[len(base.rstrip("/")) :].lstrip("/") for folder in folders}
    return {f"{prefix}/" if prefix else "": _read_index(system, folder) for folder, prefix in prefixes.items()}


def _fetch(system: Any, source: str, target: Path, entry: _FileEntry) -> None:
    if target.is_file() and target.stat().st_size == entry["bytes"] and sha256_file(target) == entry["sha256"]:
        return
    with replaced_file(target) as temporary:
        with _reached(source):
            system.get_file(source, str(temporary))
        found = sha256_file(temporary)
        if found != entry["sha256"]:
            raise DataError(
                f"{source} has sha256 {found[:12]}.., its index states {entry['sha256'][:12]}..: it is being published "
                "again, or damaged. Run the same command again in a while; if that does not help, publish it again"
            )


def _inside(root: Path, name: str) -> Path:
    """Return a name of an index as a path below root; refuse names that lead elsewhere, which anyone could publish."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise DataError(f"the index names {name!r}, which is not inside the published folder; refusing it")
    return root.joinpath(*parts)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the finished files below a folder, without those being written (their names begin with a dot)."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _read_index(system: Any, base: str) -> _Index:
    with _reached(base):
        try:
            return json.loads(system.cat_file(f"{base}/{INDEX_FILE}"))
        except FileNotFoundError:
            return {}


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        with _reached(url):
            system, base = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url} cannot be opened: {error}; for s3:// install pip install -c constraints.txt '.[s3]'"
        ) from error
    system.invalidate_cache()  # fsspec caches listings; another process may have published since
    return system, base.rstrip("/")


@contextmanager
def _reached(place: str) -> Iterator[None]:
    """Turn failures of the storage into a ConfigError that names the place."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        of_storage = isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT)
        if not of_storage and not type(error).__module__.startswith(_STORAGE_MODULES):
            raise
        raise ConfigError(
            f"{place} cannot be reached ({type(error).__name__}: {error}); check the URL, the network and the "
            "credentials in the environment. Finished local work is kept"
        ) from error
