"""Metadata of a whole dataset: manifest over all shards, splits and protocols, data card, dataset version."""

import importlib.resources
from collections import Counter
from pathlib import Path

import jinja2
import pyarrow.compute as pc

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import (
    Info,
    StageResult,
    atomic_write_json,
    atomic_write_text,
    find_done,
    hash_json,
    mark_done,
    staging_dir,
)
from hawor_pipeline.shards.manifest import Manifest, add_counts, read_manifests
from hawor_pipeline.shards.schema import LEDGER_FILE
from hawor_pipeline.shards.splits import SPLITS, SplitProtocol, main_protocol, read_protocols
from hawor_pipeline.shards.store import open_shards, read_side_tables, shards_version
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.versions import METADATA_VERSION

DATASET_MANIFEST_FILE = "manifest.json"
DATA_CARD_FILE = "data_card.md"
_CARD_COLUMNS = ["subject", "view", "side", "valid", "skip_reason", "object"]


def build_metadata(shards_dir: str | Path, arctic_root: str | Path | ArcticRoot, output_dir: str | Path) -> StageResult:
    """Collect the subjects' manifests into one, with splits, a data card and a version.

    Args:
        shards_dir: Folder with a folder per subject.
        arctic_root: The raw data, for the protocol files.
        output_dir: Folder of manifest.json and data_card.md.

    Returns:
        StageResult; info has dataset_version, source, sources, rows, valid_rows, subjects, sequences, rows by split,
        missing_splits (of train and val, those without valid rows), body_occluder, left_out (reason to samples),
        invalid.

    Raises:
        ConfigError: No subject is converted.
        DataError: A manifest or protocol file is damaged, or settings or sources are mixed.
    """
    root, shards, output = ArcticRoot.locate(arctic_root), Path(shards_dir), Path(output_dir)
    manifests = read_manifests(shards)
    if not manifests:
        raise ConfigError(f"{shards} holds no converted subject; `hawor-pipeline prepare` creates shards.")
    protocols = read_protocols(root)
    _check_settings(shards, manifests)
    version = shards_version(shards)
    subjects = {name: manifest.to_dict() for name, manifest in manifests.items()}
    stated = {name: protocol.to_dict() for name, protocol in protocols.items()}
    key = hash_json({"version": METADATA_VERSION, "manifests": subjects, "protocols": stated})
    info, why = find_done(output, key)
    if info is not None:
        return StageResult(output, True, why, key, info)
    info = _info(manifests, protocols, version)
    with staging_dir(output) as folder:
        manifest = {
            "dataset_version": version,
            "source": info["source"],
            "body_occluder": info["body_occluder"],
            "protocols": stated,
            "splits": {split: main_protocol(protocols).subjects[split] for split in SPLITS},
            "subjects": subjects,
        }
        atomic_write_json(folder / DATASET_MANIFEST_FILE, manifest)
        atomic_write_text(folder / DATA_CARD_FILE, _data_card(shards, manifests, protocols, info))
        mark_done(folder, key, info, [DATASET_MANIFEST_FILE, DATA_CARD_FILE])
    return StageResult(output, False, why, key, info)


def _check_settings(shards: Path, manifests: dict[str, Manifest]) -> None:
    """Require the same settings of all subjects with samples, or their crops would differ in size or margin."""
    with_rows = {name: manifest for name, manifest in manifests.items() if manifest.rows}
    groups: dict[str, list[str]] = {}
    for name, manifest in with_rows.items():
        groups.setdefault(hash_json(manifest.settings), []).append(name)
    if len(groups) > 1:
        found = " against ".join(", ".join(group) for group in groups.values())
        raise DataError(f"{shards}: subjects were converted with different settings ({found}); convert them again.")


def _info(manifests: dict[str, Manifest], protocols: dict[str, SplitProtocol], version: str) -> Info:
    main = main_protocol(protocols)
    sources = sorted({manifest.source for manifest in manifests.values()})
    valid = {name: manifest.valid_rows for name, manifest in manifests.items()}
    by_split = {split: sum(valid.get(name, 0) for name in main.subjects[split]) for split in SPLITS}
    return {
        "dataset_version": version,
        "source": " and ".join(sources),
        "sources": sources,
        "rows": sum(manifest.rows for manifest in manifests.values()),
        "valid_rows": sum(valid.values()),
        "body_occluder": all(manifest.body_occluder for manifest in manifests.values() if manifest.rows),
        "subjects": sum(1 for manifest in manifests.values() if manifest.rows),
        "sequences": sum(len(manifest.sequences) for manifest in manifests.values()),
        "bytes": sum(manifest.bytes for manifest in manifests.values()),
        **{f"{split}_rows": count for split, count in by_split.items()},
        "missing_splits": [split for split in ("train", "val") if not by_split[split]],
        "splits_stated_by": main.stated_by,
        "left_out": add_counts(manifest.left_out for manifest in manifests.values()),
        "invalid": add_counts(manifest.invalid for manifest in manifests.values()),
        "per_subject": [
            {
                "subject": name,
                "status": manifest.status,
                "split": next((split for split in SPLITS if name in main.subjects[split]), ""),
                "sequences": len(manifest.sequences),
                "rows": manifest.rows,
                "valid_rows": manifest.valid_rows,
                "reason": manifest.reason,
            }
            for name, manifest in manifests.items()
        ],
    }


def _data_card(shards: Path, manifests: dict[str, Manifest], protocols: dict[str, SplitProtocol], info: Info) -> str:
    """Describe the contents of the dataset, and what was skipped, in Markdown."""
    table = open_shards(shards, columns=_CARD_COLUMNS).table
    counts = []
    for title, column in (("Views", "view"), ("Sides", "side"), ("Objects", "object")):
        every = Counter(table.column(column).to_pylist())
        good = Counter(table.filter(pc.field("valid")).column(column).to_pylist())
        rows = [{column: name, "rows": every[name], "valid rows": good[name]} for name in sorted(every)]
        counts.append((title, rows))
    ledger = read_side_tables(shards, manifests, LEDGER_FILE).group_by("reason")
    skipped = [
        {"reason": row["reason"], "samples": row["samples_sum"], "ledger rows": row["reason_count"]}
        for row in ledger.aggregate([("samples", "sum"), ("reason", "count")]).sort_by("reason").to_pylist()
    ]
    skipped += [
        {"reason": f"{name} (kept, marked invalid)", "samples": n, "ledger rows": 0}
        for name, n in info["invalid"].items()
    ]
    settings = next((manifest.settings for manifest in manifests.values() if manifest.rows), {})
    template = (importlib.resources.files(__package__) / "data_card.md.j2").read_text()
    return jinja2.Template(template, trim_blocks=True, undefined=jinja2.StrictUndefined).render(
        info=info,
        protocol=main_protocol(protocols),
        counts=counts,
        skipped=skipped,
        sequences=[
            f"{name}/{item.sequence}: {item.reason}"
            for name, manifest in manifests.items()
            for item in manifest.left_out_sequences
        ],
        settings=[{"setting": name, "value": value} for name, value in settings.items()],
    )
