"""What a conversion has to do: which sequences, under which keys, and which finished shards are still valid."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.data.arctic import RAW_PARTS, ArcticRoot, list_images, split_sequence_name
from hawor_pipeline.data.fingerprint import DigestCache, hash_files
from hawor_pipeline.data.shards import read_manifest
from hawor_pipeline.errors import ConfigError, DataError, HaworError, nearest
from hawor_pipeline.provenance import find_done, hash_json

if TYPE_CHECKING:
    from hawor_pipeline.data.convert_sequence import SequenceTask

# Raise it with every change that alters the bytes of a shard.
CONVERTER_VERSION = 1
NO_PICTURES = "no_pictures"
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
    left_out: list[dict[str, str]] = field(default_factory=list)
    errors: dict[str, HaworError] = field(default_factory=dict)
    cache: DigestCache | None = None


def check_sequences(root: ArcticRoot, subjects: list[str], names: Sequence[str] | None) -> None:
    known = sorted({name for subject in subjects for name in root.sequences(subject)})
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"unknown sequence {name!r} of {', '.join(subjects)}; found {len(known)}.{nearest(name, known)}"
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
    from hawor_pipeline.data.convert_sequence import SequenceTask

    plan = SubjectPlan(subject, root.status(subject))
    if plan.status != "present":
        plan.reason = missing_reason(root, subject, plan.status)
        plan.why = plan.reason
        return plan
    whys = []
    cache = plan.cache = DigestCache(output / ".cache" / f"{subject}.json")
    for sequence in _selected(root, subject, output, settings, names):
        images = {view: list_images(root.image_folder(subject, sequence, view)) for view in settings.views}
        if not any(images.values()):
            plan.left_out.append({"sequence": sequence, "reason": NO_PICTURES})
            continue
        try:
            raw = _raw_hashes(root, cache, subject, sequence, images)
        except DataError as error:
            plan.errors[sequence] = error
            continue
        key = hash_json({**shared, "raw": raw, "subject": subject, "sequence": sequence})
        decided_by = {
            "raw": raw,
            "mano": shared["mano"],
            "settings": shared["settings"],
            "converter": CONVERTER_VERSION,
        }
        data_version = hash_json(decided_by)
        plan.data_versions[sequence] = data_version
        folder = output / subject / sequence
        info, why = find_done(folder, key)
        if info is not None and info["bytes"] != sum((folder / name).stat().st_size for name in info["sha256"]):
            info, why = None, "a file of the earlier result has another size than when it was written"
        if info is not None:
            plan.done[sequence] = info
            continue
        whys.append(f"{sequence}: {why}")
        metadata = {"source": root.source, "data_version": data_version, "converter_version": str(CONVERTER_VERSION)}
        plan.tasks.append(SequenceTask(root.path, mano, subject, sequence, folder, settings, key, metadata))
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
    manifest = read_manifest(output, subject) or {}
    kept = set()
    if manifest.get("settings") == settings_that_matter(settings) and manifest.get("source") == root.source:
        kept = {entry["sequence"] for entry in manifest.get("sequences", ())} | set(manifest.get("withdrawn", ()))
    asked = [name for name in present if name in names][: settings.max_sequences_per_subject]
    return [name for name in present if name in kept or name in asked]


def _raw_hashes(
    root: ArcticRoot, cache: DigestCache, subject: str, sequence: str, images: dict[int, dict[int, Path]]
) -> dict[str, Any]:
    """Hashes of everything that a shard is made from, except MANO."""
    files = [root.raw_file(subject, sequence, part) for part in RAW_PARTS]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: missing; expected beside the other raw files of {subject}/{sequence}.")
    object_folder = root.object_folder(split_sequence_name(sequence)[0])
    meshes = [object_folder / name for name in ("top.obj", "bottom.obj")]
    return {
        "arrays": hash_files(files),
        "object": hash_files([mesh for mesh in meshes if mesh.is_file()]),
        "cameras": hash_json(root.misc.get(subject)),
        "image_source": root.image_source,
        "images": {
            str(view): cache.digest(f"{sequence}/{view}", found.values()) for view, found in images.items() if found
        },
        "source": root.source,
    }
