"""The setting of an evaluation: data, tables and protocol; and the devices that predict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.protocols import DEFAULT_PROTOCOL, Protocol, check_fits, find_protocol
from hawor_pipeline.evaluation.recordings import plan_recordings
from hawor_pipeline.locate import check_hand_models
from hawor_pipeline.models.checkpoints import OpenedCheckpoint
from hawor_pipeline.provenance import hash_json, sha256_file
from hawor_pipeline.shards.schema import MANIFEST_FILE
from hawor_pipeline.untrusted.mano_files import find_mano


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices and processes that predict; they change no number that matters and are part of no key.

    Attributes:
        device: "auto", "cpu", "cuda", ...
        count: number of devices (on the CPU: of processes) that share the work.
        num_workers: processes per device that decode crops; 0 decodes in the process itself.
    """

    device: str = "auto"
    count: int = 1
    num_workers: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """The data that an evaluation reads, the tables that it writes, and its protocol.

    Attributes:
        shards_dir: converted shards.
        mano_dir: folder of the MANO models.
        metrics_dir: folder of the metric tables.
        dataset_version: from the manifest of the shards.
        subjects: those evaluated, sorted.
        protocol: name in `protocols.PROTOCOLS`.
        excluded: sequences of these subjects that do not count, as "subject/sequence".
    """

    shards_dir: Path
    mano_dir: Path
    metrics_dir: Path
    dataset_version: str
    subjects: tuple[str, ...]
    protocol: str = DEFAULT_PROTOCOL
    excluded: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        shards_dir: Path | str,
        mano_dir: Path | str,
        metrics_dir: Path | str,
        dataset_version: str,
        subjects: Sequence[str],
        protocol: str = DEFAULT_PROTOCOL,
    ) -> "Setting":
        """Make a setting from paths of any kind; the order of subjects does not matter."""
        folders = (Path(shards_dir), Path(mano_dir), Path(metrics_dir))
        return cls(*folders, dataset_version, tuple(sorted(set(subjects))), protocol)

    @property
    def views(self) -> tuple[int, ...] | None:
        """Views that the protocol counts; None for all."""
        return find_protocol(self.protocol).views

    def unseen_by(self, checkpoint: OpenedCheckpoint) -> "Setting":
        """Exclude the sequences that a checkpoint was trained on.

        Raises:
            ConfigError: it was trained on all of a subject, so that an evaluation would measure training data.
        """
        if overlap := sorted(set(checkpoint.trained_on) & set(self.subjects)):
            raise ConfigError(
                f"{checkpoint.path} was trained on {', '.join(overlap)}; evaluate subjects that it never saw "
                "(--subjects)."
            )
        seen = (name for name in checkpoint.trained_on if "/" in name and name.split("/")[0] in self.subjects)
        return replace(self, excluded=tuple(sorted(seen)))

    def check(self) -> tuple[Protocol, str]:
        """Make sure, before any work, that there is something to evaluate.

        Returns:
            The protocol and the source of the shards.

        Raises:
            ConfigError: something named does not exist, the protocol is one of other data, or the hand models are not
                those of the shards.
            DataError: a shard is damaged, or no row counts.
        """
        check_hand_models(self.shards_dir, self.mano_dir)
        protocol = find_protocol(self.protocol)
        source = check_fits(protocol, self.shards_dir, self.subjects)
        plan_recordings(self.shards_dir, self.subjects, protocol.views, protocol.consecutive_frames, self.excluded)
        return protocol, source

    def digest(self, **others: Any) -> str:
        """Return a short name of which rows count by which protocol, and of anything else that decides their values."""
        rows = {"protocol": self.protocol, "subjects": self.subjects, "excluded": self.excluded}
        return hash_json({**rows, **others})[:12]

    def planned_counts(self) -> dict[str, int]:
        """Return the number of samples of each sequence that count, by "subject/sequence"."""
        planned = plan_recordings(self.shards_dir, self.subjects, self.views, excluded=self.excluded)
        return {f"{recording.subject}/{recording.sequence}": recording.counted for recording in planned}

    def hashes(self, other_subjects: Sequence[str] = ()) -> dict[str, str]:
        """Hash the shards (through their manifests, which list the hashes of all files) and the hand models."""
        subjects = {*self.subjects, *other_subjects}
        manifests = {subject: self.shards_dir / subject / MANIFEST_FILE for subject in sorted(subjects)}
        hashes = {subject: sha256_file(path) for subject, path in manifests.items() if path.is_file()}
        return hashes | {f"mano {side}": sha256_file(find_mano(self.mano_dir, side)) for side in ("right", "left")}
