"""The configuration of a run from what a caller gives: a file, a mapping or settings, and the shards' own split.

Every entry point passes through here (the commands, torchrun, Dagster, `TrainingPipeline`, `EnhancedHaWoRTrainer`), so
a key means the same in all of them. Loads no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hawor_pipeline.config import TrainingConfig, load_config, resolve_config
from hawor_pipeline.remote import local_copy
from hawor_pipeline.shards.splits import held_out_subjects, recorded_protocols

ConfigSource = TrainingConfig | Mapping[str, Any] | str | Path


def as_config(source: ConfigSource) -> TrainingConfig:
    """Return the training configuration of a YAML file, a mapping or settings.

    Raises:
        ConfigError: the file is missing, a key is unknown, or a value is not valid.
    """
    if isinstance(source, TrainingConfig):
        return source
    if isinstance(source, (str, Path)):
        return load_config(source)
    return resolve_config(source, origin="settings")


def with_recorded_split(config: TrainingConfig) -> TrainingConfig:
    """Fill in the validation subjects of the protocols that the shards were prepared under.

    The configuration is returned unchanged if it names its validation data, if no protocol is recorded, or if the
    shards contain none of the validation subjects. The subjects of a mixture are those of all its members.

    Raises:
        DataError: a recorded protocol is corrupt.
    """
    if config.val_subjects or config.val_fraction or config.validation_data_dir:
        return config
    members = config.training_data_dir
    folders = [members] if isinstance(members, str) else [member.path for member in members]
    if not any(recorded_protocols(local_copy(folder)) for folder in folders):
        return config
    present = [
        subject
        for folder in folders
        for subject in held_out_subjects(folder)[0]
        if (local_copy(folder) / subject).is_dir()
    ]
    return config.changed(val_subjects=list(dict.fromkeys(present))) if present else config
