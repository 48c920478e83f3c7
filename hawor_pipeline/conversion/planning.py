"""The plan of a conversion: the sequences to convert, their keys, and the finished shards that are still valid."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.ledger import NO_IMAGES
from hawor_pipeline.conversion.sequence_task import (
    SequenceTask,
    content_key,
    data_version,
    settings_that_matter,
    shared_key,
    state_key,
)
from hawor_pipeline.errors import ConfigError, DataError, HaworError, nearest
from hawor_pipeline.provenance import STAGE_FILE
from hawor_pipeline.shards.manifest import Manifest, SequenceInfo, find_shard, read_manifest
from hawor_pipeline.sources.fingerprint import DigestCache, digest_images, file_states
from hawor_pipeline.sources.image_files import ImageFile, images_state

if TYPE_CHECKING:
    from hawor_pipeline.sources.reader import Reader, SequenceRef

_NAMED = 12  # sequences, in a message
_NO_RESULT = "no finished result was there"
Images = dict[int, dict[int, ImageFile]]


@dataclass(frozen=True)
class ConversionJob:
    """Settings of one conversion: reader, hand models, output folder, selection."""

    reader: "Reader"
    mano_dir: Path
    output: Path
    settings: ConversionConfig
    names: tuple[str, ...] | None = None  # add or refresh only these sequences; None: all that the settings choose

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Part of the keys of all sequences."""
        return shared_key(self.settings, self.reader, self.mano_dir)

    @cached_property
    def matters(self) -> dict[str, Any]:
        """Settings that change the bytes of a shard."""
        return settings_that_matter(self.settings)

    def manifest(self, subject: str) -> Manifest:
        """Read the manifest of an earlier conversion; an empty one where there is none."""
        return read_manifest(self.output, subject) or Manifest()

    def check_names(self, subjects: Sequence[str]) -> None:
        """Raise ConfigError for a subject or sequence that the dataset does not have."""
        known_subjects = self.reader.subjects()
        for subject in subjects:
            if subject not in known_subjects and read_manifest(self.output, subject) is None:
                found = known_subjects if len(known_subjects) <= _NAMED else known_subjects[:_NAMED]
                raise ConfigError(
                    f"unknown subject {subject!r} of {self.reader.name}; expected one of {', '.join(found)}"
                    f"{' ...' if len(found) < len(known_subjects) else ''}.{nearest(subject, known_subjects)}"
                )
        names = self.names if self.names is not None else self.settings.sequences
        known = sorted({ref.sequence for subject in subjects for ref in self.reader.sequences(subject)})
        for name in names or ():
            if name not in known:
                raise ConfigError(
                    f"unknown sequence {name!r} of {', '.join(subjects)}; found {len(known)}: "
                    f"{', '.join(known[:_NAMED])}{' ...' if len(known) > _NAMED else ''}.{nearest(name, known)}"
                )


@dataclass(slots=True)
class SubjectPlan:
    """Work on one subject, and its results."""

    subject: str
    status: str
    reason: str = ""  # why there is no ground truth
    why: str = ""  # why sequences are converted
    tasks: list[SequenceTask] = field(default_factory=list)
    done: dict[str, SequenceInfo] = field(default_factory=dict)  # sequence -> finished shard, with its data version
    reused: int = 0  # finished shards of earlier conversions
    recorded_views: tuple[int, ...] = ()  # views that any sequence of the subject has, of those asked for
    keeps_manifest: bool = False  # the raw files are gone, the shards made from them are not
    without_images: list[str] = field(default_factory=list)
    errors: dict[str, HaworError] = field(default_factory=dict)
    image_states: dict[str, dict[str, str]] = field(default_factory=dict)  # sequence -> view -> state of its images
    cache: DigestCache | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing is finished, to be done, or failed."""
        return not (self.done or self.tasks or self.errors)


def plan_subject(job: ConversionJob, subject: str) -> SubjectPlan:
    """Plan one subject: check its finished shards against their keys, and list the rest as tasks."""
    status, reason = job.reader.status(subject)
    plan = SubjectPlan(subject, status, reason, why=reason)
    if status != "present":
        return plan
    plan.cache = DigestCache(job.output / ".cache" / f"{subject}.json")
    whys = []
    for ref, required in _selected(job, subject):
        try:
            task, why = _plan_sequence(job, plan, ref)
        except DataError as error:
            plan.errors[ref.sequence] = error
            continue
        if task is not None and required:
            plan.tasks.append(task)
            whys.append(f"{ref.sequence}: {why}")
    plan.reused = len(plan.done)
    if job.reader.records_views:
        plan.recorded_views = _recorded_views(job, plan)
        plan.tasks = [replace(task, recorded_views=plan.recorded_views) for task in plan.tasks]
    if plan.is_empty:
        plan.reason = plan.why = _why_empty(job, plan)
    else:
        plan.why = "; ".join(whys[:3]) + (f"; and {len(whys) - 3} more" if len(whys) > 3 else "")
    return plan


def _why_empty(job: ConversionJob, plan: SubjectPlan) -> str:
    if not plan.without_images:
        return f"{plan.subject} has none of the sequences asked for; zero samples"
    views = f", for views {list(job.settings.views)}" if job.reader.records_views else ""
    return (
        f"{plan.subject}: found no images of any sequence below {job.reader.root.name}, expected .jpg or .png files in "
        f"the published layout, such as {job.reader.example}{views}; zero samples. Unpack the images there"
    )


def _selected(job: ConversionJob, subject: str) -> list[tuple["SequenceRef", bool]]:
    """Return the sequences to plan, and whether to convert those without a valid shard.

    Where sequences are named, the others of the subject stay in force. Those listed under the same settings are
    converted again if their raw files changed; under other settings they are listed only if a conversion that was
    killed had already replaced them.
    """
    present, settings = job.reader.sequences(subject), job.settings
    chosen = [ref for ref in present if settings.sequences is None or ref.sequence in settings.sequences]
    if job.names is None:
        return [(ref, True) for ref in chosen[: settings.max_sequences_per_subject]]
    manifest = job.manifest(subject)
    before = {*manifest.names, *manifest.withdrawn} if manifest.source == job.reader.source else set()
    same = manifest.settings == job.matters
    asked = [ref.sequence for ref in present if ref.sequence in job.names][: settings.max_sequences_per_subject]
    return [(ref, same or ref.sequence in asked) for ref in present if ref.sequence in before or ref.sequence in asked]


def _plan_sequence(job: ConversionJob, plan: SubjectPlan, ref: "SequenceRef") -> tuple[SequenceTask | None, str]:
    """Enter a finished sequence into the plan, or return the task of converting it and the reason.

    Where a finished shard may be reused, images are hashed to find out. Where there is none, they are hashed while they
    are converted, so that a first conversion reads them once.
    """
    reader, folder = job.reader, job.output / ref.subject / ref.sequence
    images = {view: found for view, found in reader.images(ref, job.settings.views).items() if found}
    if not images:
        plan.without_images.append(ref.sequence)
        return None, NO_IMAGES
    raw = reader.content_hashes(ref)
    key, digests, version = "", None, None
    if raw is None:
        files = [image for found in images.values() for image in found.values()]
        key = state_key(job.shared, file_states(reader.label_files(ref)), images_state(files), ref)
    else:
        digests = _known_digests(plan, ref.sequence, images, must_know=(folder / STAGE_FILE).exists())
    info, why = None, _NO_RESULT
    if raw is None:
        info, why = find_shard(folder, key)
    elif digests is not None:
        whole = {**raw, "images": digests}
        info, why = find_shard(folder, content_key(job.shared, whole, ref))
        version = data_version(job.shared, whole)
    if info is not None:
        plan.done[ref.sequence] = info if version is None else replace(info, data_version=version)
        return None, ""
    settings, shared = job.settings, job.shared
    place = (reader.name, reader.source, reader.root, job.mano_dir, ref, folder)
    return SequenceTask(
        *place, settings, shared, key, raw, digests, smplx_dir=reader.smplx_dir, needs_bodies=reader.needs_bodies
    ), why


def _known_digests(plan: SubjectPlan, sequence: str, images: Images, *, must_know: bool) -> dict[str, str] | None:
    """Return view to digest of its images; None where one is not known and need not be."""
    assert plan.cache is not None
    digests = {}
    for view, found in images.items():
        state = plan.image_states.setdefault(sequence, {})[str(view)] = images_state(found.values())
        label = f"{sequence}/{view}"
        digest = plan.cache.known(label, state)
        if digest is None and must_know:
            digest = digest_images(found.values())
            plan.cache.remember(label, state, digest)
        digests[str(view)] = digest
    return None if None in digests.values() else {view: digest for view, digest in digests.items() if digest}


def _recorded_views(job: ConversionJob, plan: SubjectPlan) -> tuple[int, ...]:
    """Return the views of which any sequence of the subject has images, also one that is not converted now."""
    found = {int(view) for views in plan.image_states.values() for view in views}
    for ref in job.reader.sequences(plan.subject):
        unknown: Collection[int] = set(job.settings.views) - found
        if ref.sequence not in plan.image_states and unknown:
            found |= {view for view, images in job.reader.images(ref, sorted(unknown)).items() if images}
    return tuple(sorted(found))
