"""Locations of raw data, shards and hand models, and the hand models that belong to given shards.

Every command, asset and training run asks this module. The answer does not depend on which of them asked.

Raw data of ARCTIC: the folder given, else `$ARCTIC_ROOT`, else the built-in sample. Raw data of another dataset: the
folder given, else its own variable (`$FREIHAND_ROOT`, ...). Shards: the folder or URL given, else the folder of
`data/shards` that has the subject.

Hand models, for raw data or shards of one source, the first of:

1. the folder given (`--mano-dir`, `mano_model_path`);
2. for `synthetic` data, the sample's hand in `body_models/mano` beside the sample's raw data;
3. `$MANO_DIR`;
4. `body_models/mano` beside the raw data, where their folder is known.

Found without being given, the models must fit the source: the sample's hand for `synthetic` data, MANO for all other.
The file of the sample's hand is marked as synthetic, so neither is taken for the other. Nothing found is an error.

SMPL-X, by which the person's own body counts as an occluder in a conversion of ARCTIC or the sample: the folder given
(`--smplx-dir`), else the same places with `$SMPLX_DIR` and `body_models/smplx`. Nothing found is no error: then the
body does not count, and the manifests record that. The word `none` instead of a folder has the same effect.

Manifests of shards record digests of the hand models that the labels were made with (`hand_models`). Models that
differ, wherever they were found, are refused. Manifests written before that entry existed are not checked.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.paths import DataPaths, root_variable
from hawor_pipeline.remote import local_copy
from hawor_pipeline.sources.arctic import SYNTHETIC, ArcticRoot

if TYPE_CHECKING:
    from hawor_pipeline.shards.manifest import Manifest
    from hawor_pipeline.sources.hand_models import HandModels

ARCTIC_VARIABLE = root_variable("arctic")
MANO_VARIABLE = "MANO_DIR"
SMPLX_VARIABLE = "SMPLX_DIR"
NO_BODY = "none"  # instead of a folder of SMPL-X
_LEVELS_UP = 3  # folders above the raw data that may hold body_models: `unpack/arctic_data/data` lies three levels deep


@dataclass(frozen=True, slots=True)
class RawLocation:
    """Raw sequences, the hand models that they were fitted with, and their source (synthetic or arctic)."""

    arctic_root: Path
    mano_dir: Path
    source: str


def uses_sample() -> bool:
    """Return True where the built-in sample takes the place of ARCTIC: `$ARCTIC_ROOT` is not set."""
    return not os.environ.get(ARCTIC_VARIABLE)


def find_raw_root(given: Path | str | None = None) -> ArcticRoot:
    """Find raw data in ARCTIC's layout: as given, else `$ARCTIC_ROOT`, else the built-in sample.

    Raises:
        ConfigError: the folder does not exist or does not have ARCTIC's layout.
    """
    return ArcticRoot.locate(given or os.environ.get(ARCTIC_VARIABLE) or DataPaths.default().sample / "arctic")


def find_raw_data() -> RawLocation:
    """Find the raw data that the environment names, and their hand models.

    Raises:
        ConfigError: either is missing.
    """
    root = find_raw_root()
    return RawLocation(root.path, find_hand_models(root.source, None, root.path), root.source)


def find_raw_root_of(shards_dir: Path | str, given: Path | str | None = None) -> ArcticRoot:
    """Find the raw data that shards of ARCTIC or of the sample were converted from.

    Raises:
        ConfigError: they are missing, or of another source than the shards.
    """
    source = shards_source(shards_dir)
    roots = _known_roots(source) if given is None else [Path(given)]
    if not roots:
        raise ConfigError(
            f"raw data of the {source} shards not found; give --arctic-root DIR, set {ARCTIC_VARIABLE}, or use --crops."
        )
    root = ArcticRoot.locate(roots[0])
    if root.source != source:
        raise ConfigError(
            f"{root.path} holds {root.source} data, expected {source} as in the shards {shards_dir}; give the folder "
            "that they were converted from."
        )
    return root


def find_dataset_root(dataset: str) -> Path:
    """Find the folder that a dataset other than ARCTIC is unpacked in, by its environment variable.

    Raises:
        ConfigError: the variable is not set.
    """
    variable = root_variable(dataset)
    if not os.environ.get(variable):
        raise ConfigError(
            f"${variable} is not set; expected the folder that {dataset} is unpacked in. Set it where Dagster runs, "
            "and start it again."
        )
    return Path(os.environ[variable])


def find_shards(given: Path | str | None, name: str) -> Path:
    """Find the shards that hold a sample or recording.

    Args:
        given: a shards folder, or the URL of a published one; None searches `data/shards`.
        name: "subject/sequence" or longer; its subject is searched for.

    Raises:
        ConfigError: no folder, or more than one, has the subject.
    """
    if given is not None:
        return local_copy(given)
    from hawor_pipeline.shards.manifest import read_manifest

    root = DataPaths.default().shards("any").parent
    places = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    subject = name.split("/", 1)[0]
    found = [place for place in places if read_manifest(place, subject) is not None]
    if len(found) == 1:
        return found[0]
    searched = ", ".join(map(str, found or places)) or root
    problem = "several folders of shards have" if found else "no shards have"
    raise ConfigError(f"{problem} subject {subject!r}; searched {searched}. Choose one with --data DIR.")


def shards_source(shards_dir: Path | str) -> str:
    """Return the source that the manifests of a shards folder name.

    Raises:
        ConfigError: the folder has no manifest.
        DataError: a manifest is damaged, or the manifests name several sources.
    """
    sources = sorted({manifest.source for manifest in _manifests(shards_dir)})
    if not sources:
        raise ConfigError(f"{shards_dir} holds no converted subject; `hawor-pipeline prepare` makes shards.")
    if len(sources) > 1:
        raise DataError(f"{shards_dir}: holds shards of {' and '.join(sources)}; keep them in separate folders.")
    return sources[0]


def hand_models_of(shards: Path | str | Sequence[Path | str], given: Path | str | None = None) -> Path:
    """Find the hand models that belong to shards, and check that they do.

    Args:
        shards: a shards folder or URL, or several that are used together.
        given: folder of the models; None searches.

    Returns:
        The folder of MANO_RIGHT and MANO_LEFT.

    Raises:
        ConfigError: no hand models were found, or they are not those of the shards.
        DataError: the shards need different hand models, or a file is damaged.
    """
    folders = [shards] if isinstance(shards, (str, Path)) else list(shards)
    sources = {shards_source(folder): folder for folder in folders}
    if SYNTHETIC in sources and len(sources) > 1:
        found = ", ".join(f"{folder} ({source})" for source, folder in sources.items())
        raise DataError(f"found shards of {found}; the sample has a hand model of its own and cannot be mixed in.")
    models = find_hand_models(next(iter(sources)), given)
    for folder in folders:
        check_hand_models(folder, models)
    return models


def check_hand_models(shards_dir: Path | str, mano_dir: Path | str) -> None:
    """Check that hand models are those that the labels of shards were made with.

    Raises:
        ConfigError: they are not.
        DataError: a manifest or a model file is damaged.
    """
    recorded = [manifest.hand_models for manifest in _manifests(shards_dir) if manifest.hand_models]
    if not recorded:
        return
    from hawor_pipeline.sources.hand_models import digest_hand_models

    found = digest_hand_models(mano_dir)
    for expected in recorded:
        if different := [side for side in expected if expected[side] != found.get(side)]:
            sides = " and ".join(f"{side} {expected[side][:12]}, found {found[side][:12]}" for side in different)
            raise ConfigError(
                f"the hand models in {mano_dir} are not those of the shards {shards_dir}: expected {sides}. Give the "
                "models that the shards were converted with (--mano-dir, mano_model_path), or convert the shards again."
            )


def open_hand_models(shards_dir: Path | str, given: Path | str | None = None) -> "HandModels":
    """Load the hand models that belong to shards, with the convention of their dataset.

    Args:
        shards_dir: a shards folder or URL.
        given: folder of the models; None searches.

    Raises:
        ConfigError: no hand models were found, or they are not those of the shards.
        DataError: a file is damaged, or the manifests record several conventions.
    """
    from hawor_pipeline.sources.hand_models import HandModels

    found = {manifest.mano_convention for manifest in _manifests(shards_dir)}
    if len(found) > 1:
        raise DataError(f"{shards_dir}: the manifests record different conventions {found}; convert again.")
    return HandModels.load(hand_models_of(shards_dir, given), *found)


def find_hand_models(source: str, given: Path | str | None = None, raw_root: Path | str | None = None) -> Path:
    """Find the hand models for data of one source by the rule of this module.

    Args:
        source: synthetic, arctic, freihand, ...
        given: folder of the models; None searches.
        raw_root: raw data; None: as the environment names it.

    Raises:
        ConfigError: none were found; the message names what was searched.
    """
    if given:
        folder = Path(given).expanduser().absolute()
        _is_procedural(folder)  # raises where there is no model
        return folder
    searched = []
    for folder in _places(source, raw_root, "mano", MANO_VARIABLE):
        if _is_procedural(folder) == (source == SYNTHETIC):
            return folder.absolute()
        other = "MANO, not the sample's hand" if source == SYNTHETIC else "the sample's hand, not MANO"
        searched.append(f"{folder} (holds {other})")
    advice = "`hawor-pipeline sample-data` writes the sample's hand beside its raw data"
    if source != SYNTHETIC:
        advice = "register at https://mano.is.tue.mpg.de to download mano_v1_2.zip"
    named = f"${MANO_VARIABLE}" + ("" if os.environ.get(MANO_VARIABLE) else " (not set)")
    raise ConfigError(
        f"MANO models not found for {source} data: searched {named} and body_models/mano beside the raw data"
        f"{': ' if searched else ''}{', '.join(searched)}. Give the folder of MANO_RIGHT and MANO_LEFT (--mano-dir, "
        f"mano_model_path) or set ${MANO_VARIABLE}; {advice}."
    )


def find_body_models(source: str, given: Path | str | None = None, raw_root: Path | str | None = None) -> Path | None:
    """Find the folder of SMPL-X for data of one source by the rule of this module; None where there is none.

    Args:
        source: synthetic or arctic.
        given: folder of the models, or "none"; None searches.
        raw_root: raw data.

    Raises:
        ConfigError: the folder given, or named by the environment, holds no SMPL-X.
    """
    from hawor_pipeline.untrusted.smplx_files import find_any_smplx, is_procedural_body

    if NO_BODY in (str(given), "" if given else os.environ.get(SMPLX_VARIABLE)):
        return None
    if given:
        folder = Path(given).expanduser().absolute()
        find_any_smplx(folder)
        return folder
    for folder in _places(source, raw_root, "smplx", SMPLX_VARIABLE):
        if is_procedural_body(find_any_smplx(folder)) == (source == SYNTHETIC):
            return folder.absolute()
    return None


def hand_models_for_footage(given: Path | str | None = None) -> tuple[Path, bool]:
    """Find hand models for footage that belongs to no dataset: as given, `$MANO_DIR`, ARCTIC's, else the sample's hand.

    Returns:
        The folder, and True for the sample's hand.

    Raises:
        ConfigError: none were found.
    """
    try:
        folder = find_hand_models("arctic", given or os.environ.get(MANO_VARIABLE))
    except ConfigError:
        sample = next(iter(_places(SYNTHETIC, None, "mano", MANO_VARIABLE)), None)
        if given or os.environ.get(MANO_VARIABLE) or sample is None:
            raise
        folder = sample.absolute()
    return folder, _is_procedural(folder)


def _places(source: str, raw_root: Path | str | None, kind: str, variable: str) -> Iterator[Path]:
    """Yield folders that may hold models of a kind; the raw data are looked for only when their turn comes."""
    named = os.environ.get(variable)
    if named and source != SYNTHETIC:
        yield Path(named).expanduser()
    for root in _known_roots(source) if raw_root is None else [Path(raw_root)]:
        beside = [above / "body_models" / kind for above in list(root.absolute().parents)[:_LEVELS_UP]]
        yield from (folder for folder in beside if folder.exists())
    if named and source == SYNTHETIC:
        yield Path(named).expanduser()


def _known_roots(source: str) -> list[Path]:
    """Return the raw data of a source that the environment names, and the built-in sample where it exists."""
    named = os.environ.get(root_variable("arctic" if source == SYNTHETIC else source))
    roots = [Path(named)] if named else []
    if source in ("arctic", SYNTHETIC):
        roots = [root.path for root in map(ArcticRoot.locate, roots) if root.source == source]
    sample = DataPaths.default().sample / "arctic"
    return [*roots, sample] if source == SYNTHETIC and sample.is_dir() else roots


def _is_procedural(folder: Path) -> bool:
    """Return True for the hand of the built-in sample, whose file is marked; raise where there is no model."""
    from hawor_pipeline.untrusted.mano_files import find_mano, is_procedural

    return is_procedural(find_mano(folder, "right"))


def _manifests(shards_dir: Path | str) -> list["Manifest"]:
    from hawor_pipeline.shards.manifest import read_manifests

    return list(read_manifests(local_copy(shards_dir)).values())
