"""The data sets that can be read, by name."""

from pathlib import Path

from hawor_pipeline.errors import ConfigError, nearest
from hawor_pipeline.sources.dexycb import DexYcb
from hawor_pipeline.sources.freihand import FreiHand
from hawor_pipeline.sources.ho3d import Ho3d
from hawor_pipeline.sources.interhand import InterHand
from hawor_pipeline.sources.reader import Reader

READERS = {reader.name: reader for reader in (FreiHand, Ho3d, DexYcb, InterHand)}
DATASETS = tuple(READERS)


def open_reader(dataset: str, root: Path, mano_dir: Path) -> Reader:
    """The reader of a data set as it is now; opening one reads no labels.

    Raises:
        ConfigError: the data set is unknown, or not in its published layout under `root`.
    """
    if dataset not in READERS:
        known = ", ".join(DATASETS)
        raise ConfigError(f"unknown data set {dataset!r}; expected one of {known}.{nearest(dataset, DATASETS)}")
    if not root.is_dir():
        raise ConfigError(f"{root} not found; expected the folder that {dataset} is unpacked in")
    return READERS[dataset](root, mano_dir)
