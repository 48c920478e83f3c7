"""Images of a dataset: numbered files in folders, or members of ARCTIC's zip of each sequence, which need no unpacking.

An image that is in a zip, or whose zip was kept beside the unpacked files, is checked against the zip's checksum
whenever it is read.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import hash_json

_NUMBER = "([0-9]{1,9})"  # as many digits as a sample's name can have
_JPEG, JPEG_OR_PNG = r"\.jpe?g", r"\.(?:jpe?g|png)"
_MEMBER = re.compile(rf"(?:.*/)?(\d)/{_NUMBER}{_JPEG}", re.IGNORECASE)
_READ_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a view."""

    path: Path  # the file, or the zip that holds it
    member: str = ""  # its name inside the zip
    crc: int | None = None  # checksum that the download states, where it is known

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return self.member.rsplit("/", 1)[-1] if self.member else self.path.name

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DataError: it cannot be read, or differs from the download's checksum.
        """
        try:
            data = _open_zip(*_state(self.path)).read(self.member) if self.member else self.path.read_bytes()
        except _READ_ERRORS as error:
            raise DataError(f"{self}: cannot be read ({error}); get the file again.") from None
        if self.crc is not None and not self.member and zlib.crc32(data) != self.crc:
            raise DataError(f"{self}: differs from the one in the download's zip (CRC-32); unpack it again.")
        return data


def list_images(folder: Path, prefix: str = "", suffix: str = _JPEG) -> dict[int, ImageFile]:
    """Images of one view by the number in their name, ascending; see `list_numbered`.

    Of several files with one number (HO-3D's published .png and a .jpg made from it), a .png is taken.
    """
    return {number: ImageFile(path) for number, path in list_numbered(folder, prefix, suffix).items()}


def list_numbered(folder: Path, prefix: str, suffix: str) -> dict[int, Path]:
    """List files named prefix, number, suffix, by number, ascending; others, such as `._0001.jpg`, are ignored.

    Args:
        folder: the folder; without it, the result is empty.
        prefix: literal start of the names.
        suffix: regular expression of their end, whose case does not matter.
    """
    named = re.compile(f"{re.escape(prefix)}{_NUMBER}{suffix}", re.IGNORECASE)
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    names.sort(key=lambda name: (name.lower().endswith(".png"), name))  # the last of several with one number is taken
    found = {int(match.group(1)): folder / name for name in names if (match := named.fullmatch(name))}
    return dict(sorted(found.items()))


def list_zipped(archive: Path) -> dict[int, dict[int, ImageFile]]:
    """View to the images in the zip of a sequence, by number, ascending.

    Raises:
        DataError: the zip is damaged.
    """
    return _index(*_state(archive))


def images_state(images: Iterable[ImageFile]) -> str:
    """A hash of names, sizes and modification times; it changes when an image or its zip is replaced.

    Raises:
        DataError: one is not there any more.
    """
    images = list(images)
    archive = images[0].path if images and images[0].member else None
    try:
        if archive is not None:
            found = archive.stat()
            return hash_json([[p.name, p.crc] for p in images] + [found.st_size, found.st_mtime_ns])
        return hash_json([[p.name, (found := p.path.stat()).st_size, found.st_mtime_ns] for p in images])
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); get the file again.") from None


def with_checksums(files: dict[int, ImageFile], zipped: dict[int, ImageFile]) -> dict[int, ImageFile]:
    """Unpacked images together with the checksums of the zip that they came from."""
    return {
        number: ImageFile(file.path, crc=zipped[number].crc) if number in zipped else file
        for number, file in files.items()
    }


def member_checksums(archive: Path) -> dict[str, int]:
    """Member name to CRC-32, of any zip.

    Raises:
        DataError: the zip is damaged.
    """
    return _checksums(*_state(archive))


def _state(path: Path) -> tuple[Path, int]:
    try:
        return path, path.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); get the file again.") from None


def _explained(opened: Callable[[], Any], path: Path) -> Any:
    try:
        return opened()
    except _READ_ERRORS as error:
        raise DataError(f"{path}: damaged zip ({error}); get the file again.") from None


@lru_cache(maxsize=2)
def _open_zip(path: Path, _changed: int) -> zipfile.ZipFile:
    return _explained(lambda: zipfile.ZipFile(path), path)


@lru_cache(maxsize=4)
def _index(path: Path, changed: int) -> dict[int, dict[int, ImageFile]]:
    views: dict[int, dict[int, ImageFile]] = {}
    for info in _open_zip(path, changed).infolist():
        if match := _MEMBER.fullmatch(info.filename):
            views.setdefault(int(match.group(1)), {})[int(match.group(2))] = ImageFile(path, info.filename, info.CRC)
    return {view: dict(sorted(files.items())) for view, files in views.items()}


@lru_cache(maxsize=4)
def _checksums(path: Path, changed: int) -> dict[str, int]:
    return {info.filename: info.CRC for info in _open_zip(path, changed).infolist()}
