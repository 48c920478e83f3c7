"""What a conversion has to do: which sequences, under which keys, and which finished shards are still valid."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.fingerprint import DigestCache, digest_images, hash_files
from hawor_pipeline.errors import ConfigError, DataError, HaworError, nearest
from hawor_pipeline.provenance import STAGE_FILE, hash_json
from hawor_pipeline.shards.manifest import Manifest, find_shard, read_manifest
from hawor_pipeline.sources.arctic import RAW_PARTS, ArcticRoot, split_sequence_name
from hawor_pipeline.sources.image_files import ImageFile, images_state
from hawor_pipeline.versions import CONVERTER_VERSION

if TYPE_CHECKING:
    from hawor_pipeline.conversion.convert_sequence import SequenceTask

NO_IMAGES = "no_pictures"
_NAMED = 12  # sequences, in a message
# Settings that choose or judge sequences, but do not change the bytes of one.
_SELECTION = {"sequences", "max_sequences_per_subject", "max_left_out_share"}
_LIBRARIES = ("numpy", "opencv-python", "simplejpeg", "pyarrow", "torch", "embreex")


@dataclass(slots=True)
class SubjectPlan:
    """Work on one subject, and what came of it."""

    subject: str
    status: str
    reason: str = ""  # why there is no ground truth
    why: str = ""  # why sequences are converted
    tasks: "list[SequenceTask]" = field(default_factory=list)
    data_versions: dict[str, str] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # sequence -> info of a finished shard
    reused: int = 0  # finished shards that were there before
    recorded_views: tuple[int, ...] = ()  # that any sequence of the subject has, of those asked for
    keeps_manifest: bool = False  # the raw files are gone, what was made of them is not
    left_out: list[dict[str, str]] = field(default_factory=list)
    errors: dict[str, HaworError] = field(default_factory=dict)
    image_states: dict[str, dict[str, str]] = field(default_factory=dict)  # sequence -> view -> state of its pictures
    cache: DigestCache | None = None


def check_sequences(root: ArcticRoot, subjects: list[str], names: Sequence[str] | None) -> None:
    known = sorted({name for subject in subjects for name in root.sequences(subject)})
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"unknown sequence {name!r} of {', '.join(subjects)}; found {len(known)}: {', '.join(known[:_NAMED])}"
                f"{' ...' if len(known) > _NAMED else ''}.{nearest(name, known)}"
            )


def settings_that_matter(settings: ConversionConfig) -> dict[str, Any]:
    """The settings that change the bytes of a shard."""
    return settings.model_dump(mode="json", exclude=_SELECTION)


def shared_key(settings: ConversionConfig, mano: dict[str, str]) -> dict[str, Any]:
    return {
        "settings": settings_that_matter(settings),
        "mano": mano,
        "converter": CONVERTER_VERSION,
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _version(package: str) -> str:
    """Version without the build tag; OpenCV goes by two names."""
    for name in (package, f"{package}-headless"):
        try:
            return version(name).split("+")[0]
        except PackageNotFoundError:
            continue
    raise ConfigError(f"the package {package} is not installed; `make setup` installs it.")


def sequence_key(shared: dict[str, Any], raw: dict[str, Any], subject: str, sequence: str) -> str:
    """The key of a shard: everything that it is made from and by."""
    return hash_json({**shared, "raw": raw, "subject": subject, "sequence": sequence})


def sequence_version(shared: dict[str, Any], raw: dict[str, Any]) -> str:
    """What a shard says of its origin: raw contents, hand models, settings and converter."""
    return hash_json({"raw": raw, **{name: shared[name] for name in ("mano", "settings", "converter")}})


def plan_subject(
    root: ArcticRoot,
    mano: Path,
    subject: str,
    output: Path,
    settings: ConversionConfig,
    shared: dict[str, Any],
    names: Sequence[str] | None,
) -> SubjectPlan:
    """What of a subject is to be converted and what is still valid."""
    plan = SubjectPlan(subject, root.status(subject))
    if plan.status != "present":
        plan.reason = missing_reason(root, subject, plan.status)
        plan.why = plan.reason
        return plan
    whys = []
    plan.cache = DigestCache(output / ".cache" / f"{subject}.json")
    for sequence in _selected(root, subject, output, settings, names):
        try:
            why = _plan_sequence(plan, root, mano, sequence, output / subject / sequence, settings, shared)
        except DataError as error:
            plan.errors[sequence] = error
            continue
        if why:
            whys.append(f"{sequence}: {why}")
    plan.reused = len(plan.done)
    plan.recorded_views = _recorded_views(plan, root, settings)
    plan.tasks = [replace(task, recorded_views=plan.recorded_views) for task in plan.tasks]
    if not (plan.done or plan.tasks or plan.errors):
        plan.reason = f"{subject} has none of the sequences asked for; zero samples"
        if plan.left_out:
            plan.reason = (
                f"{subject}: found no pictures of any sequence below {root.image_source}/{subject}, "
                f"expected folders sequence/view with .jpg files for views {list(settings.views)}; zero samples"
            )
        plan.why = plan.reason
        return plan
    plan.why = "; ".join(whys[:3]) + (f"; and {len(whys) - 3} more" if len(whys) > 3 else "")
    return plan


def _recorded_views(plan: SubjectPlan, root: ArcticRoot, settings: ConversionConfig) -> tuple[int, ...]:
    """Views of which any sequence of the subject has pictures, also one that is not converted now."""
    found = {int(view) for views in plan.image_states.values() for view in views}
    for sequence in root.sequences(plan.subject):
        if sequence not in plan.image_states and set(settings.views) - found:
            found |= {view for view in set(settings.views) - found if root.images(plan.subject, sequence, view)}
    return tuple(sorted(found))


def _plan_sequence(
    plan: SubjectPlan,
    root: ArcticRoot,
    mano: Path,
    sequence: str,
    folder: Path,
    settings: ConversionConfig,
    shared: dict[str, Any],
) -> str:
    """Enter one sequence into the plan; returns why it must be converted, "" where nothing is to be done.

    Where a finished shard may be reused, the pictures are hashed to find out. Where there is none, they are hashed
    while they are converted, so that a first conversion reads them once.
    """
    from hawor_pipeline.conversion.convert_sequence import SequenceTask

    subject = plan.subject
    images = {view: root.images(subject, sequence, view) for view in settings.views}
    images = {view: found for view, found in images.items() if found}
    if not images:
        plan.left_out.append({"sequence": sequence, "reason": NO_IMAGES})
        return ""
    raw = _raw_hashes(root, subject, sequence)
    digests = _known_digests(plan, sequence, images, must_know=(folder / STAGE_FILE).exists())
    why = "no finished result was there"
    if digests is not None:
        whole = {**raw, "images": digests}
        info, why = find_shard(folder, sequence_key(shared, whole, subject, sequence))
        if info is not None:
            plan.done[sequence] = info.to_dict()
            plan.data_versions[sequence] = sequence_version(shared, whole)
            return ""
    metadata = {"source": root.source, "converter_version": str(CONVERTER_VERSION)}
    plan.tasks.append(
        SequenceTask(root.path, mano, subject, sequence, folder, settings, shared, raw, digests, metadata)
    )
    return why


def _known_digests(
    plan: SubjectPlan, sequence: str, images: dict[int, dict[int, ImageFile]], *, must_know: bool
) -> dict[str, str] | None:
    """View to digest of its pictures; None where one is not known and need not be."""
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


def missing_reason(root: ArcticRoot, subject: str, status: str) -> str:
    """Why a subject has no ground truth here, in words."""
    folder = root.path / "raw_seqs" / subject
    if status == "withheld":
        return f"the ground truth of {subject} is withheld by ARCTIC (test subject); zero samples"
    return f"{subject} is not downloaded: raw_seqs/{folder.name} holds no sequences; zero samples"


def _selected(
    root: ArcticRoot, subject: str, output: Path, settings: ConversionConfig, names: Sequence[str] | None
) -> list[str]:
    present = root.sequences(subject)
    chosen = [name for name in present if settings.sequences is None or name in settings.sequences]
    chosen = chosen[: settings.max_sequences_per_subject]
    if names is None:
        return chosen
    manifest = read_manifest(output, subject) or Manifest()
    kept = set()
    if manifest.settings == settings_that_matter(settings) and manifest.source == root.source:
        kept = {*manifest.names, *manifest.withdrawn}
    asked = [name for name in present if name in names][: settings.max_sequences_per_subject]
    return [name for name in present if name in kept or name in asked]


def _raw_hashes(root: ArcticRoot, subject: str, sequence: str) -> dict[str, Any]:
    """Hashes of everything that a shard is made from, except MANO and pictures."""
    files = [root.raw_file(subject, sequence, part) for part in RAW_PARTS]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: missing; expected beside the other raw files of {subject}/{sequence}.")
    root.cameras(subject)  # refuses a damaged entry
    object_folder = root.object_folder(split_sequence_name(sequence)[0])
    meshes = [object_folder / name for name in ("top.obj", "bottom.obj")]
    return {
        "arrays": hash_files(files),
        "object": hash_files([mesh for mesh in meshes if mesh.is_file()]),
        "cameras": hash_json(json.dumps(root.misc[subject], sort_keys=True)),
        "image_source": root.image_source,
        "source": root.source,
    }
