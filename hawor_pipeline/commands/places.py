"""Where shards, hand models and raw pictures are, for commands whose user did not say."""

import os
from pathlib import Path

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths


def find_shards(given: Path | None, name: str) -> Path:
    """The shards that hold a sample or recording: as given, else the project's own that have its subject."""
    if given is not None:
        return given
    root = DataPaths.default().shards("any").parent
    places = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    subject = name.split("/", 1)[0]
    found = [place for place in places if (place / subject / "manifest.json").is_file()]
    if len(found) == 1:
        return found[0]
    where = ", ".join(map(str, found or places)) or root
    what = "more than one set of shards has" if found else "no shards have"
    raise ConfigError(f"{what} subject {subject!r}; looked in {where}. Say which with --data DIR.")


def _is_synthetic(shards: Path) -> bool:
    from hawor_pipeline.shards.store import read_manifest

    subjects = sorted(path.parent.name for path in shards.glob("*/manifest.json"))
    return any((read_manifest(shards, subject) or {}).get("source") == "synthetic" for subject in subjects)


def find_mano(given: Path | None, shards: Path) -> Path:
    """Hand models that fit the shards."""
    if given is None and _is_synthetic(shards):
        return DataPaths.default().sample / "body_models" / "mano"
    chosen = given or os.environ.get("MANO_DIR")
    if not chosen:
        raise ConfigError("MANO models not found; give --mano-dir DIR or set MANO_DIR.")
    return Path(chosen)


def find_raw_root(given: Path | None, shards: Path) -> Path:
    """Raw pictures that the shards were made from."""
    if given is None and _is_synthetic(shards):
        return DataPaths.default().sample / "arctic"
    chosen = given or os.environ.get("ARCTIC_ROOT")
    if not chosen:
        raise ConfigError("raw pictures not found; give --arctic-root DIR, set ARCTIC_ROOT, or ask for --crops.")
    return Path(chosen)
