"""The folder that a conversion writes to: what it may be, and what its manifests say while shards are replaced."""

from collections.abc import Sequence
from pathlib import Path

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.plan import SubjectPlan, settings_that_matter
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.provenance import atomic_write_json, hash_json
from hawor_pipeline.shards.schema import MANIFEST_FILE
from hawor_pipeline.shards.store import read_manifest
from hawor_pipeline.sources.arctic import RAW_FOLDERS, ArcticRoot

RAW_FILES_GONE = "raw_files_gone"


def check_output(root: ArcticRoot, output: Path) -> None:
    """Shards go into a folder of their own, and those of different sources never share one.

    Raises:
        ConfigError: the folder is a file, lies among raw files, or holds shards of another source.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; expected a folder for the shards, which need not exist yet.")
    inside = output.resolve()
    if any((root.path / part).resolve() in (inside, *inside.parents) for part in RAW_FOLDERS):
        raise ConfigError(f"{output} lies among the raw files of {root.path}; choose a folder outside them.")
    for path in output.glob(f"*/{MANIFEST_FILE}"):
        found = (read_manifest(output, path.parent.name) or {}).get("source")
        if found not in (None, root.source):
            raise ConfigError(
                f"{output} holds {found} shards ({path.parent.name}), and {root.path} is {root.source}: "
                "the two never mix. Choose another output folder."
            )


def refuse_mixed_settings(
    plans: list[SubjectPlan], output: Path, settings: ConversionConfig, names: Sequence[str] | None
) -> None:
    """All sequences of a subject have the same settings.

    Raises:
        ConfigError: single sequences are asked for under other settings than those of the subject's other ones.
    """
    for plan in plans:
        manifest = read_manifest(output, plan.subject) or {}
        before = [entry["sequence"] for entry in manifest.get("sequences", ())]
        others = sorted(set(before) - set(names or ()))
        changed = {
            name: (old, new)
            for name, new in settings_that_matter(settings).items()
            if (old := manifest.get("settings", {}).get(name)) != new
        }
        if names is not None and others and changed:
            what = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
            raise ConfigError(
                f"{plan.subject} has {len(others)} other finished sequences in {output} ({', '.join(others[:3])}"
                f"{' ...' if len(others) > 3 else ''}) under other settings ({what}); a subject has one. Convert all "
                "of it (without naming sequences), or choose another output folder."
            )


def withdraw(output: Path, subject: str, names: set[str]) -> None:
    """Take sequences that are about to be replaced out of a manifest; it keeps their names, so a kill forgets none."""
    manifest = read_manifest(output, subject)
    if manifest is None:
        return
    entries = manifest["sequences"]
    kept = [entry for entry in entries if entry["sequence"] not in names]
    gone = {entry["sequence"] for entry in entries} & names
    manifest |= {
        "sequences": kept,
        "withdrawn": sorted(gone | set(manifest.get("withdrawn", ()))),
        "rows": sum(entry["rows"] for entry in kept),
        "valid_rows": sum(entry["valid_rows"] for entry in kept),
        "data_version": hash_json([entry["data_version"] for entry in kept]),
    }
    atomic_write_json(output / subject / MANIFEST_FILE, manifest)


def keep_without_raw(plans: Sequence[SubjectPlan], output: Path) -> None:
    """A subject that was converted and whose raw files or pictures are gone keeps what it has; its plan says so."""
    for plan in plans:
        finished = (read_manifest(output, plan.subject) or {}).get("sequences", [])
        nothing = plan.status != "present" or (plan.left_out and not (plan.done or plan.tasks or plan.errors))
        if nothing and finished:
            plan.keeps_manifest = True
            plan.why = (
                f"{plan.reason}: {len(finished)} finished sequences of an earlier conversion are kept as they are"
            )


def without_raw(root: ArcticRoot, output: Path, subject: str) -> list[dict[str, str]]:
    """Sequences that were converted and are no more in the raw data, for a manifest; their folders stay."""
    before = read_manifest(output, subject) or {}
    told = {entry["sequence"] for entry in before.get("left_out_sequences", ()) if entry["reason"] == RAW_FILES_GONE}
    names = told | {entry["sequence"] for entry in before.get("sequences", ())} | set(before.get("withdrawn", ()))
    gone = sorted(names - set(root.sequences(subject)))
    return [{"sequence": name, "reason": RAW_FILES_GONE} for name in gone if (output / subject / name).is_dir()]
