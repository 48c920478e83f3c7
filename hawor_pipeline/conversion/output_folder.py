"""The folder that a conversion writes to: what it may be, and what its manifests say while shards are replaced."""

from collections.abc import Sequence
from pathlib import Path

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.plan import SubjectPlan, settings_that_matter
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.shards.manifest import Manifest, read_manifest, read_manifests
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
    for subject, manifest in read_manifests(output).items():
        if manifest.source != root.source:
            raise ConfigError(
                f"{output} holds {manifest.source} shards ({subject}), and {root.path} is {root.source}: "
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
        manifest = read_manifest(output, plan.subject) or Manifest()
        others = sorted(set(manifest.names) - set(names or ()))
        changed = {
            name: (old, new)
            for name, new in settings_that_matter(settings).items()
            if (old := manifest.settings.get(name)) != new
        }
        if names is not None and others and changed:
            what = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
            raise ConfigError(
                f"{plan.subject} has {len(others)} other finished sequences in {output} ({', '.join(others[:3])}"
                f"{' ...' if len(others) > 3 else ''}) under other settings ({what}); a subject has one. Convert all "
                "of it (without naming sequences), or choose another output folder."
            )


def keep_without_raw(plans: Sequence[SubjectPlan], output: Path) -> None:
    """A subject that was converted and whose raw files or pictures are gone keeps what it has; its plan says so."""
    for plan in plans:
        finished = (read_manifest(output, plan.subject) or Manifest()).names
        nothing = plan.status != "present" or (plan.left_out and not (plan.done or plan.tasks or plan.errors))
        if nothing and finished:
            plan.keeps_manifest = True
            plan.why = (
                f"{plan.reason}: {len(finished)} finished sequences of an earlier conversion are kept as they are"
            )


def without_raw(root: ArcticRoot, output: Path, subject: str) -> list[dict[str, str]]:
    """Sequences that were converted and are no more in the raw data, for a manifest; their folders stay."""
    before = read_manifest(output, subject) or Manifest()
    known = {each.sequence for each in before.left_out_sequences if each.reason == RAW_FILES_GONE}
    names = {*known, *before.names, *before.withdrawn}
    gone = sorted(names - set(root.sequences(subject)))
    return [{"sequence": name, "reason": RAW_FILES_GONE} for name in gone if (output / subject / name).is_dir()]
