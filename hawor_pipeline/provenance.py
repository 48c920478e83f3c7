"""Identity of results, and writes that are either complete or absent.

Hashes of files and settings, atomic writes, directories that appear by one rename, and the marker by which a stage
finds its own finished work. Nothing here depends on the meaning of the data; no time, host or absolute path is written.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hawor_pipeline.errors import DataError

STAGE_FILE = "_stage.json"
Info = dict[str, Any]  # JSON object with the figures of a stage; the keys are those its function documents


@dataclass(slots=True)
class StageResult:
    """Result of a stage: place of its output, whether it was reused and why, and figures about it."""

    path: Path
    reused: bool
    why: str
    key: str
    info: Info = field(default_factory=dict)


def sha256_file(path: Path | str) -> str:
    """Return the sha256 of a file's bytes in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON (sorted keys, no spaces) in hex.

    >>> hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def explain_disk_errors(path: Path | str) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into a DataError that names the place and a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"disk full while writing {path}: {free_bytes(Path(path)) / 1e6:.0f} MB are free there. "
                "Free some space or choose another output directory, then run the same command again: "
                "finished work is kept and reused."
            ) from error
        raise


def free_bytes(path: Path) -> int:
    """Return the free space at a path that may not exist yet."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def fsync_path(path: Path) -> None:
    """Flush one file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(directory: Path) -> None:
    """Flush a directory and every file and folder below it."""
    for root, _, names in os.walk(directory):
        for name in names:
            fsync_path(Path(root) / name)
        fsync_path(Path(root))


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there replaces `path` at the end of the block.

    Readers see the old or the complete new content, also after a power loss.

    Raises:
        DataError: The disk is full; the unfinished file is removed and the old one stays, as after any error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explain_disk_errors(path):
        try:
            yield temporary
            fsync_path(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    fsync_path(path.parent)  # the rename itself is only durable once the directory is flushed


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file by `replaced_file`."""
    with replaced_file(Path(path)) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text by `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path | str, value: Any) -> None:
    """Write JSON with sorted keys by `atomic_write_bytes`."""
    atomic_write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def publish_dir(staged: Path, final: Path) -> None:
    """Flush a finished directory and move it to its final name; an older one there is replaced.

    A directory cannot be renamed onto one that is not empty, so the old one moves aside first. `remove_leftovers`
    repairs a kill between the two renames.
    """
    fsync_tree(staged)
    final.parent.mkdir(parents=True, exist_ok=True)
    old = final.with_name(f".{final.name}.{os.getpid()}.old")
    if final.exists():
        os.rename(final, old)
    os.rename(staged, final)
    fsync_path(final.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def staging_dir(final: Path | str) -> Iterator[Path]:
    """Yield a new directory beside `final` that replaces it if the block succeeds, and is removed otherwise.

    Leftovers of killed processes beside `final` are removed first.

    Raises:
        DataError: The disk is full.
    """
    final = Path(final)
    with explain_disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        staged = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        staged.mkdir()
        try:
            yield staged
            publish_dir(staged, final)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise


def remove_leftovers(final: Path) -> None:
    """Remove the leftovers of killed processes beside `final`, but not those of live ones.

    After a kill between the two renames of `publish_dir`, the old content is restored first.
    """
    for leftover in final.parent.glob(f".{final.name}.*"):
        stem, suffix = leftover.name.rsplit(".", 1)
        pid = stem.rsplit(".", 1)[-1]
        if suffix not in ("tmp", "old") or not pid.isdigit():
            continue
        if int(pid) != os.getpid() and psutil.pid_exists(int(pid)):
            continue
        if suffix == "old" and not final.exists():
            os.rename(leftover, final)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def find_done(directory: Path | str, key: str) -> tuple[Info | None, str]:
    """Look for finished work under a key.

    Returns:
        (info, why): info is None if the work must be done; why is the reason, one sentence.
    """
    marker = Path(directory) / STAGE_FILE
    try:
        stage = json.loads(marker.read_text())
    except FileNotFoundError:
        return None, "no finished result was there"
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None, "the earlier result's marker could not be read"
    if not isinstance(stage, dict) or not isinstance(stage.get("outputs", []), list):
        return None, "the earlier result's marker could not be read"
    if stage.get("key") != key:
        return None, "inputs, settings or code version changed since the earlier result"
    missing = [name for name in stage.get("outputs", []) if not (Path(directory) / name).exists()]
    if missing:
        return None, f"the earlier result is incomplete ({missing[0]} is missing)"
    sizes = stage.get("sizes", {}).items()
    damaged = [name for name, size in sizes if (Path(directory) / name).stat().st_size != size]
    if damaged:
        return None, f"the earlier result is damaged ({damaged[0]} has another size)"
    return stage["info"], "inputs, settings and code version are those of the earlier result"


def finished_info(directory: Path | str) -> Info:
    """Return the `info` of finished work under whatever key; empty where there is none, or it cannot be read."""
    try:
        return json.loads((Path(directory) / STAGE_FILE).read_text())["info"]
    except (OSError, ValueError, KeyError):
        return {}


def mark_done(directory: Path | str, key: str, info: Info, outputs: list[str] | None = None) -> None:
    """Record finished work: `find_done` with this key returns `info` as long as all `outputs` exist in full size."""
    names = outputs or []
    Path(directory).mkdir(parents=True, exist_ok=True)  # names beside it ("../x") resolve only once it exists
    files = {name: Path(directory) / name for name in names}
    sizes = {name: file.stat().st_size for name, file in files.items() if file.is_file()}
    atomic_write_json(Path(directory) / STAGE_FILE, {"key": key, "info": info, "outputs": names, "sizes": sizes})
