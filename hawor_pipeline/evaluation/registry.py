"""Registry of evaluated runs and champions: small JSON files that survive the folders of the runs.

    {registry}/runs/{protocol}/{dataset_version}/{run_id}.json     metrics and hashes of one evaluated run
    {registry}/champions/{protocol}/{dataset_version}.json         the champion, the reason, and the earlier ones
    {registry}/checkpoints/{sha256}.ckpt                           files of champions (hard links where possible)

Numbers compare only under one protocol and on one version of the data, so there is a champion for each pair. No torch
here.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import atomic_write_json, replaced_file, sha256_file

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One evaluated run. `metrics` are the overall means of its summary."""

    run_id: str
    protocol: str
    dataset_version: str
    source: str
    checkpoint_sha256: str
    checkpoint_path: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Champion:
    """The run in force, when it was promoted (UTC, ISO 8601) and why."""

    record: RunRecord
    promoted_at: str
    reason: str


class Registry:
    """Reads and writes the registry under one folder, which need not exist yet."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def add(self, record: RunRecord) -> Path:
        """Record an evaluated run; an older record of the same run, protocol and data is replaced."""
        path = self._file("runs", record.protocol, record.dataset_version, record.run_id)
        atomic_write_json(path, asdict(record))
        return path

    def run(self, run_id: str, protocol: str, dataset_version: str) -> RunRecord:
        """Return the record of a run.

        Raises:
            ConfigError: there is none.
        """
        path = self._file("runs", protocol, dataset_version, run_id)
        if not path.is_file():
            known = ", ".join(record.run_id for record in self.runs(protocol, dataset_version)) or "none"
            raise ConfigError(
                f"registry {self.root} has no run {run_id!r} of {protocol} on data version {dataset_version[:12]} "
                f"(has {known}); evaluate it first."
            )
        return _record(_read(path), path)

    def runs(self, protocol: str, dataset_version: str) -> list[RunRecord]:
        """Return all evaluated runs of a protocol and data version, by name."""
        folder = self._file("runs", protocol, dataset_version, "x").parent
        return [_record(_read(path), path) for path in sorted(folder.glob("*.json"))]

    def champion(self, protocol: str, dataset_version: str) -> Champion | None:
        """Return the champion of a protocol and data version, or None."""
        path = self._file("champions", protocol, dataset_version)
        return _champion(_read(path)["champion"], path) if path.is_file() else None

    def latest_champion(self, protocol: str, source: str) -> Champion | None:
        """Return the champion promoted last for a protocol, on any version of the data of this source."""
        paths = (self.root / "champions" / _safe(protocol)).glob("*.json")
        found = [_champion(_read(path)["champion"], path) for path in paths]
        found = [champion for champion in found if champion.record.source == source]
        return max(found, key=lambda champion: champion.promoted_at, default=None)

    def promote(self, record: RunRecord, reason: str) -> Champion:
        """Make a run the champion of its protocol and data version, and keep its checkpoint.

        Promoting the champion again changes nothing.

        Raises:
            DataError: the checkpoint is gone, or is another file than the one evaluated.
        """
        before = self.champion(record.protocol, record.dataset_version)
        if before is not None and before.record.checkpoint_sha256 == record.checkpoint_sha256:
            return before
        kept = self._keep_checkpoint(record)
        path = self._file("champions", record.protocol, record.dataset_version)
        history = _read(path)["history"] if path.is_file() else []
        champion = Champion(
            RunRecord(**{**asdict(record), "checkpoint_path": str(kept.relative_to(self.root))}),
            datetime.now(UTC).isoformat(timespec="microseconds"),
            reason,
        )
        past = [asdict(before)] if before is not None else []
        atomic_write_json(path, {"champion": asdict(champion), "history": [*history, *past]})
        return champion

    def history(self, protocol: str, dataset_version: str) -> list[Champion]:
        """Return the earlier champions, the oldest first."""
        path = self._file("champions", protocol, dataset_version)
        return [_champion(item, path) for item in _read(path)["history"]] if path.is_file() else []

    def checkpoint(self, champion: Champion) -> Path:
        """Return the kept file of a champion.

        Raises:
            DataError: it is gone or was changed.
        """
        path = self.root / champion.record.checkpoint_path
        _check_file(path, champion.record)
        return path

    def _keep_checkpoint(self, record: RunRecord) -> Path:
        source = Path(record.checkpoint_path)
        _check_file(source, record)
        kept = self.root / "checkpoints" / f"{record.checkpoint_sha256}.ckpt"
        if kept.is_file() and sha256_file(kept) == record.checkpoint_sha256:
            return kept
        with replaced_file(kept) as staged:
            _link_or_copy(source, staged)
        return kept

    def _file(self, kind: str, *parts: str) -> Path:
        *folders, name = (_safe(part) for part in parts)
        return self.root.joinpath(kind, *folders, f"{name}.json")


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _safe(part: str) -> str:
    if not _SAFE.fullmatch(part):
        raise ConfigError(f"{part!r} cannot name a file of the registry; use letters, digits, '.', '_' and '-'.")
    return part


def _check_file(path: Path, record: RunRecord) -> None:
    if not path.is_file():
        raise DataError(f"checkpoint {path} of run {record.run_id!r} is gone; train and evaluate it again.")
    if (found := sha256_file(path)) != record.checkpoint_sha256:
        raise DataError(
            f"checkpoint {path} has sha256 {found[:12]}, run {record.run_id!r} was evaluated with "
            f"{record.checkpoint_sha256[:12]}; evaluate this file before it is promoted."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); restore it, or remove it and promote again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected an object; restore or remove it.")
    return content


def _record(content: Mapping[str, Any], path: Path) -> RunRecord:
    try:
        return RunRecord(**content)
    except TypeError as error:
        raise DataError(f"{path} is not a record of this version ({error}); evaluate the run again.") from None


def _champion(content: Mapping[str, Any], path: Path) -> Champion:
    return Champion(_record(content["record"], path), content["promoted_at"], content["reason"])
