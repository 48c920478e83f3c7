"""The datasets that can be read, by name; a new reader is one line here."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hawor_pipeline.core.mano_convention import ARCTIC as ARCTIC_CONVENTION
from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.errors import ConfigError, DataError, nearest
from hawor_pipeline.sources.arctic import SYNTHETIC

if TYPE_CHECKING:
    from hawor_pipeline.sources.reader import Reader

ARCTIC = "arctic"
# Name to module and class in this package; imported when it is opened, as some readers need torch.
READERS = {
    ARCTIC: ("arctic_reader", "ArcticReader"),
    "freihand": ("freihand", "FreiHand"),
    "ho3d": ("ho3d", "Ho3d"),
    "dexycb": ("dexycb", "DexYcb"),
    "interhand": ("interhand", "InterHand"),
}
DATASETS = tuple(name for name in READERS if name != ARCTIC)  # other than ARCTIC


def open_reader(
    dataset: str, root: Path, mano_dir: Path, smplx_dir: Path | None = None, *, needs_bodies: bool = False
) -> "Reader":
    """Open the reader of a dataset; no labels are read.

    Args:
        dataset: name in `READERS`.
        root: the folder that the dataset is unpacked in.
        mano_dir: folder of the MANO models.
        smplx_dir: folder of the SMPL-X models, where the person's body counts as an occluder.
        needs_bodies: a sequence without its body's files is an error; else it is converted without.

    Raises:
        ConfigError: the dataset is unknown, or not in its published layout under `root`.
    """
    if dataset not in READERS:
        known = ", ".join(READERS)
        raise ConfigError(f"unknown dataset {dataset!r}; expected one of {known}.{nearest(dataset, READERS)}")
    if dataset != ARCTIC and not root.is_dir():  # ARCTIC is searched for around the folder given
        raise ConfigError(f"{root} not found; expected the folder that {dataset} is unpacked in")
    reader = _reader_class(dataset)(root, mano_dir)
    reader.smplx_dir, reader.needs_bodies = smplx_dir, needs_bodies
    return reader


def convention_of_source(source: str) -> "ManoConvention":
    """Return the MANO convention of a source, as manifests name it: a dataset, or `synthetic` for the sample.

    Raises:
        DataError: no reader has this source.
    """
    if source == SYNTHETIC:
        return ARCTIC_CONVENTION
    if source not in READERS:
        raise DataError(f"found source {source!r} without a recorded hand-model convention; convert the data again.")
    return _reader_class(source).convention


def _reader_class(dataset: str) -> "type[Reader]":
    module, name = READERS[dataset]
    reader = getattr(import_module(f"hawor_pipeline.sources.{module}"), name)
    if reader.name != dataset:
        raise ConfigError(f"{name}.name is {reader.name!r}, expected {dataset!r} as in the registry.")
    return reader
