"""Migration of configurations of the original training and evaluation system; keys are kept, renamed or dropped.

The original reads some settings at the top level and others from sections (`training`, `hardware`, ...), in YAML or
JSON; its shipped files use both forms. Both are understood. Every key appears once in the report, with
the reason, and the result is validated by the schema.

Source: FBB0/HaWoR, `ENHANCED_TRAINING_EVALUATION_README.md` and the files of its `configs/` (names of keys only).
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from hawor_pipeline.config import (
    LOSS_TERMS,
    AugmentationParams,
    DataFiltering,
    TrainingConfig,
    build,
    read_yaml,
)
from hawor_pipeline.errors import ConfigError, nearest

Fate = Literal["kept", "renamed", "dropped"]
GROUPS: dict[str, tuple[str, ...]] = {
    "augmentation_params": tuple(AugmentationParams.model_fields),
    "data_filtering": tuple(DataFiltering.model_fields),
    "loss_weights": LOSS_TERMS,
}
_KEYS = read_yaml(Path(__file__).with_suffix(".yaml"))
SECTIONS = frozenset(_KEYS["sections"].split())
RENAMED: dict[str, str] = _KEYS["renamed"]
DROPPED: dict[str, str] = {key: reason for reason, keys in _KEYS["dropped"].items() for key in keys.split()}
_SIZES: tuple[str, ...] = get_args(TrainingConfig.model_fields["backbone_size"].annotation)
_FOREIGN_TERM = "a term of another definition; see KEYPOINTS_3D and the other eight terms"


@dataclass(frozen=True, slots=True)
class KeyFate:
    """Fate of one key: its dotted name in the old file, the fate, and the new key or the reason."""

    key: str
    fate: Fate
    note: str = ""
    sets: Mapping[str, Any] = field(default_factory=dict, compare=False)  # settings of the new configuration


@dataclass(slots=True)
class Migration:
    """A translated configuration and the fate of every key of the old one."""

    config: TrainingConfig
    fates: list[KeyFate] = field(default_factory=list)

    def of(self, fate: Fate) -> list[KeyFate]:
        """Return the keys with a fate."""
        return [each for each in self.fates if each.fate == fate]

    def report(self) -> str:
        """Describe each key in a line, by fate."""
        lines = []
        for fate in ("kept", "renamed", "dropped"):
            keys = self.of(fate)  # type: ignore[arg-type]
            lines.append(f"{fate}: {len(keys)}")
            lines += [f"  {each.key}{': ' if each.note else ''}{each.note}" for each in keys]
        return "\n".join(lines)

    def heading(self) -> str:
        """List the renamed, dropped and changed keys as comments for the head of the new file."""
        noted = [f"# {each.key}: {each.fate}, {each.note}" for each in self.fates if each.note]
        return "\n".join(["# Migrated configuration.", *noted]) + "\n"


def migrate_file(path: Path | str) -> Migration:
    """Translate a configuration file of the original system.

    Args:
        path: YAML or JSON file.

    Raises:
        ConfigError: the file is missing or unreadable, or kept values contradict each other.
    """
    values = read_yaml(path, refuse_duplicates=False)  # as the original reads them
    return migrate(values, origin=str(path))


def migrate(values: Mapping[str, Any], *, origin: str) -> Migration:
    """Translate the settings of the original system.

    Raises:
        ConfigError: kept values contradict each other.
    """
    new: dict[str, Any] = {}
    fates: list[KeyFate] = []
    settings = list(_settings(values))
    given = {name for _, name, value in settings if value is not None}
    for dotted, name, value in settings:
        fate = _backbone(dotted, value, given) if name == "backbone_type" else _fate(dotted, name, value)
        for key, item in fate.sets.items():
            if key in new and isinstance(item, dict) and isinstance(new[key], dict):
                item = {**new[key], **item}
            elif key in new and new[key] != item:
                raise ConfigError(f"{origin}: {dotted} sets {key}: {item!r}, another key sets {new[key]!r}; keep one")
            new[key] = item
        fates.append(fate)
    return Migration(build(TrainingConfig, new, origin=origin), fates)


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (dotted name, name, value) of every setting, with sections and groups flattened."""
    for name, value in values.items():
        group = RENAMED.get(name, name)
        if isinstance(value, Mapping) and (name in SECTIONS or group in GROUPS):
            if group in GROUPS:
                for inner, item in value.items():
                    yield f"{prefix}{name}.{inner}", f"{group}.{inner}", item
            else:
                yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", name, value


def _fate(dotted: str, name: str, value: Any) -> KeyFate:
    """Decide the fate of one setting."""
    group, _, inner = name.partition(".")
    if inner:
        return _group_fate(dotted, group, inner, value)
    special = _special(dotted, name, value)
    if special is not None:
        return special
    new = RENAMED.get(name, name)
    if new in TrainingConfig.model_fields:
        changed, note = _value(new, value)
        try:
            build(TrainingConfig, {new: changed}, origin=dotted)
        except ConfigError as error:
            default = TrainingConfig.model_fields[new].default
            return KeyFate(dotted, "dropped", f"not valid here, {new} is {default!r}: {_short(error, dotted)}")
        if new != name:
            note = f"now {new}" + (f"; {note}" if note else "")
        return KeyFate(dotted, "kept" if new == name else "renamed", note, {new: changed})
    if name in DROPPED:
        return KeyFate(dotted, "dropped", DROPPED[name])
    if name.endswith("_loss_weight"):
        return KeyFate(dotted, "dropped", _FOREIGN_TERM)
    guess = nearest(name, list(TrainingConfig.model_fields))
    return KeyFate(dotted, "dropped", f"known to neither system.{guess}")


def _backbone(dotted: str, value: Any, given: Set[str]) -> KeyFate:
    """Decide the fate of the backbone's type, which in the original implies its size: `vit` is ViT-H.

    Args:
        given: names of the settings that the old file sets.
    """
    prefix, _, short = str(value).partition("_")
    sizes = [size for size in _SIZES if size.startswith(short)] if short else ["huge"]
    if prefix != "vit" or len(sizes) != 1:
        default = TrainingConfig.model_fields["backbone_size"].default
        known = ", ".join(f"vit_{size}" for size in _SIZES)
        note = f"not valid here, the backbone is vit_{default}: found {value!r}, expected vit (ViT-H) or {known}"
        return KeyFate(dotted, "dropped", note)
    sets: dict[str, str | bool] = {"backbone_type": "vit"}
    if not short and "backbone_size" in given:
        return KeyFate(dotted, "kept", "its size is that of backbone_size", sets)
    sets["backbone_size"] = sizes[0]
    note = f"now backbone_type vit and backbone_size {sizes[0]}" if short else "it is ViT-H: backbone_size huge"
    if sizes[0] == "huge" and not given & {"pretrained_weights", "from_scratch"}:
        sets["from_scratch"] = True
        note += "; without pretrained_weights it starts from random weights: from_scratch true"
    return KeyFate(dotted, "renamed" if short else "kept", note, sets)


def _group_fate(dotted: str, group: str, inner: str, value: Any) -> KeyFate:
    if inner in GROUPS[group]:
        moved = not dotted.endswith(f"{group}.{inner}")
        try:
            build(TrainingConfig, {group: {inner: value}}, origin=dotted)
        except ConfigError as error:
            return KeyFate(dotted, "dropped", f"not valid here, the default is used: {_short(error, dotted)}")
        fate: Fate = "renamed" if moved else "kept"
        return KeyFate(dotted, fate, f"now {group}.{inner}" if moved else "", {group: {inner: value}})
    reason = _FOREIGN_TERM if group == "loss_weights" else f"known to neither system.{nearest(inner, GROUPS[group])}"
    return KeyFate(dotted, "dropped", reason)


def _special(dotted: str, name: str, value: Any) -> KeyFate | None:
    """Decide the fate of keys that have another form here."""
    if name == "device":
        return KeyFate(dotted, "renamed", "now accelerator", {"accelerator": value})
    if name == "use_ema":
        return KeyFate(dotted, "renamed", "now ema_decay (0 is off)", {"ema_decay": 0.999 if value else 0.0})
    return None


def _value(key: str, value: Any) -> tuple[Any, str]:
    """Convert a value to the new schema; return it with a note if it changed."""
    if key == "torch_compile":
        return int(value), ""
    if key == "image_size" and isinstance(value, int) and value % 64:
        size = max(64, 64 * round(value / 64))
        return size, f"{value} became {size}: the network's window needs a multiple of 64"
    if key == "monitor" and value == "val_loss":
        return "val/loss", "val_loss is written val/loss"
    return value, ""


def _short(error: ConfigError, origin: str) -> str:
    return str(error).removeprefix(f"{origin}: ")
