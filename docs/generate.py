"""Writes the generated pages of docs/reference: python docs/generate.py. A test keeps them fresh."""

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from hawor_pipeline.cli import build_parser
from hawor_pipeline.config import ConversionConfig, Settings, TrainingConfig

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- written by docs/generate.py -->\n"


def configuration_page() -> str:
    """Every setting with its type, default and meaning."""
    parts = [
        NOTE,
        "# Configuration\n",
        "One YAML, one schema; unknown keys fail with the nearest known name. `hawor-pipeline create-config PATH`\n"
        "writes one with every key explained, `train --set KEY=VALUE` overrides.\n",
        "## Training\n",
        *_settings_table(TrainingConfig),
        "## Conversion\n",
        *_settings_table(ConversionConfig),
    ]
    return "\n".join(parts)


def _settings_table(schema: type[Settings], prefix: str = "") -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, info in schema.model_fields.items():
        if isinstance(info.default, Settings):
            inner = _settings_table(type(info.default), f"{prefix}{name}.")
            lines += inner[2:-1]
            continue
        kind = _type_name(schema, name)
        lines.append(f"| `{prefix}{name}` | {kind} | `{info.default}` | {_cell(info.description or '')} |")
    return [*lines, ""]


def _type_name(schema: type[Settings], name: str) -> str:
    """The type as the JSON schema says it, in words."""
    field = schema.model_json_schema()["properties"][name]
    options = field.get("anyOf", [field])
    return " or ".join(_option(option) for option in options)


def _option(option: dict) -> str:
    if "enum" in option:
        return ", ".join(str(value) for value in option["enum"])
    if "const" in option:
        return str(option["const"])
    return str(option.get("type", "list of {path, weight}"))


def command_line_page() -> str:
    """Every command with its options."""
    parser = build_parser()
    parts = [
        NOTE,
        "# Command line\n",
        "Exit codes: 0 done; 1 damaged data, full disk, failed run (`doctor`: something required is missing); 2 wrong\n"
        "usage, configuration, missing path or unknown subject. A user's error is one message: what was found, what\n"
        "was expected, what to do.\n",
    ]
    (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    helps = {action.dest: action.help for action in commands._choices_actions}
    for name, command in sorted(commands.choices.items()):
        parts += [f"## {name}\n", f"{helps.get(name, '')}\n", "| option | meaning |", "|---|---|"]
        rows = [_option_row(action) for action in command._actions if not isinstance(action, argparse._HelpAction)]
        parts += [*(rows or ["| none | |"]), ""]
    return "\n".join(parts)


def _option_row(action: argparse.Action) -> str:
    words = [action.option_strings[0]] if action.option_strings else []
    values = action.metavar or ("|".join(map(str, action.choices)) if action.choices else None)
    if action.nargs != 0:
        names = values if isinstance(values, tuple) else (values or action.dest.upper(),)
        words += [str(word) for word in names]
    if action.nargs in ("+", "*"):
        words.append("..")
    meaning = [action.help or ""]
    if action.required and action.option_strings:
        meaning.append("(required)")
    if action.default not in (None, False, [], argparse.SUPPRESS):
        meaning.append(f"(default: {action.default})")
    return f"| `{_cell(' '.join(words))}` | {_cell(' '.join(part for part in meaning if part))} |"


TABLES = {
    "predictions": "What a network said, a row per sample; everything else is computed from it.",
    "samples": "A row per sample: its keys and strata, and every metric. Null where a metric is not defined.",
    "joints": "A row per sample and joint.",
    "summary": "Means over strata, with 95 % intervals from a bootstrap over sequences.",
    "comparison": "The run against floors and rivals, sample by sample, with the interval of the difference.",
    "robustness": "The network run again on boxes and pictures that were made worse on purpose.",
    "training": "The curves of the training run.",
}


def metric_tables_page() -> str:
    """Every table, column, metric, protocol and degradation of evaluation."""
    from hawor_pipeline.evaluation.degrade import KINDS
    from hawor_pipeline.evaluation.protocols import PROTOCOLS
    from hawor_pipeline.evaluation.schemas import SAMPLE_METRICS, SCHEMAS, SUMMARY_METRICS, column_docs

    parts = [
        NOTE,
        "# Metric tables\n",
        "Parquet under `data/metrics/<table>/run_id=<run>/`; tables are validated against these schemas when they are\n"
        "written, and each column's unit and meaning stand in the file's own metadata. How to query them:\n"
        "[query the tables](../howto/query-the-tables.md).\n",
    ]
    for table in SCHEMAS:
        rows = [row for row in column_docs(table) if row[0] not in SAMPLE_METRICS]
        parts += [f"## {table}\n", f"{TABLES[table]}\n", *_table(("column", "type", "unit", "meaning"), rows)]
        if table == "samples":
            parts += ["and a column (double, null where undefined) for each of the metrics below.\n"]
    samples = [(name, m.unit, m.better, m.meaning) for name, m in SAMPLE_METRICS.items()]
    summary = [(name, m.unit, m.better, m.meaning) for name, m in SUMMARY_METRICS.items()]
    head = ("metric", "unit", "better", "meaning")
    parts += ["## Metrics of a sample\n", *_table(head, samples)]
    parts += ["## Metrics that only the summary has\n", *_table(head, summary), "## Protocols\n"]
    for protocol in PROTOCOLS.values():
        views = "all views" if protocol.views is None else f"views {', '.join(map(str, protocol.views))}"
        data = "any data" if protocol.sources is None else f"data: {', '.join(protocol.sources)}"
        headlines = ", ".join(f"`{name}`" for name in protocol.headlines)
        parts += [f"### {protocol.name}\n", f"{protocol.meaning[0].upper()}{protocol.meaning[1:]} ({views}; {data})."]
        parts += [f"Quoted by {headlines}. {protocol.quirks}\n"]
    kinds = [(name, ", ".join(map(str, kind.levels)), kind.unit, kind.meaning) for name, kind in KINDS.items()]
    parts += ["## Degradations of the robustness table\n", *_table(("kind", "levels", "unit", "meaning"), kinds)]
    return "\n".join(parts)


def training_metrics_page() -> str:
    """Every number that `TrainingEvaluator` gives of a batch."""
    from dataclasses import fields

    from hawor_pipeline.evaluation.training_evaluator import TrainingMetrics

    rows = [(f.name, f.metadata["unit"], f.metadata["formula"]) for f in fields(TrainingMetrics)]
    return "\n".join(
        [
            NOTE,
            "# Training metrics\n",
            "Fields of `TrainingMetrics`, which `TrainingEvaluator.evaluate_batch` returns: means over the valid\n"
            "frames of the batch, right-hand convention, camera frame. NaN where a number is not available, never 0.\n",
            *_table(("field", "unit", "formula"), rows),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| `{row[0]}` | {' | '.join(_cell(str(cell)) for cell in row[1:])} |" for row in rows]
    return [*lines, ""]


LEDGER_MEANING = {
    "subject": "s01..s10, or the name that a reader of another data set gives",
    "sequence": "as in the raw files",
    "view": "as in the annotations",
    "frame": "number in the picture's file name; -1: the whole view",
    "side": "left or right; empty: both",
    "reason": "one of the reasons below",
    "samples": "how many rows of annotations this costs",
}
DISTANCES_MEANING = {
    "subject": "as in the annotations",
    "sequence": "as in the annotations",
    "gt_index": "index of the ground truth; joins with the annotations' gt_index",
    "side": "left or right",
    "hand_object_distance_m": "from the nearest of the hand's vertices to the object's surface, m; once per moment",
}


def shards_page() -> str:
    """Every column of the tables of a shard, and every reason for which something is left out or not valid."""
    from hawor_pipeline.shards import schema as schema

    columns = [(c.name, str(c.kind), " x ".join(map(str, c.shape)), c.unit, c.meaning) for c in schema.COLUMNS.values()]
    return "\n".join(
        [
            NOTE,
            "# Columns of the shards\n",
            "Tables of a converted sequence. Shape, unit and meaning of each column of the annotations also stand\n"
            "in the Parquet file itself, as metadata of the column. How to read them:\n"
            "[read shards](../howto/read-shards.md).\n",
            f"## {schema.ANNOTATIONS_FILE}\n",
            "A row per hand, picture and view, sorted by view, side and frame. Arrays are lists of fixed\n"
            "size, row by row.\n",
            *_table(("column", "type", "shape", "unit", "meaning"), columns),
            f"## {schema.IMAGES_FILE}\n",
            f"Arrow file (IPC) with the one column `jpeg`: record i is the crop of row i of\n"
            f"{schema.ANNOTATIONS_FILE}, in batches of {schema.BATCH_ROWS} records.\n",
            f"## {schema.LEDGER_FILE}\n",
            "What is left out: a row per picture, hand or view without a row in the annotations.\n",
            *_table(("column", "type", "meaning"), _schema_rows(schema.LEDGER_SCHEMA, LEDGER_MEANING)),
            "### Reasons\n",
            *_table(("reason", "meaning"), list(_reasons().items())),
            "### Reasons of other data sets\n",
            *_table(("reason", "meaning"), list(_other_reasons().items())),
            "### Rows that are kept, and are not valid\n",
            "`valid` is false, and `skip_reason` names the first rule that fails:\n",
            *_table(("skip_reason", "meaning"), list(_rules().items())),
            f"## {schema.DISTANCES_FILE}\n",
            "A row per moment of ground truth that any picture shows, and hand. ARCTIC only.\n",
            *_table(("column", "type", "meaning"), _schema_rows(schema.DISTANCES_SCHEMA, DISTANCES_MEANING)),
        ]
    )


def _schema_rows(schema: Sequence, meaning: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(field.name, str(field.type), meaning[field.name]) for field in schema]


def _reasons() -> dict[str, str]:
    from hawor_pipeline.conversion import ledger
    from hawor_pipeline.conversion.output_folder import RAW_FILES_GONE
    from hawor_pipeline.conversion.plan import NO_IMAGES

    return {
        ledger.NO_IMAGE: "ground truth without a picture",
        ledger.NO_GROUND_TRUTH_BEFORE: "a picture earlier than ground truth 0, as `ioi_offset` says",
        ledger.NO_GROUND_TRUTH_AFTER: "a picture later than the last ground truth",
        ledger.OUTSIDE_IMAGE: "nothing of the hand is in the picture",
        ledger.BEHIND_CAMERA: "the hand, or part of it, is behind the camera: there is no box",
        ledger.VIEW_ABSENT: "the view has no pictures at all (a single row, frame -1)",
        RAW_FILES_GONE: "was converted, and is no more in the raw data; stands in the manifest, the folder stays",
        NO_IMAGES: "no view has pictures; stands in the manifest (`left_out_sequences`), as there is no ledger then",
    }


def _other_reasons() -> dict[str, str]:
    from hawor_pipeline.conversion import convert_unit
    from hawor_pipeline.sources import dexycb, ho3d, interhand

    return {
        convert_unit.NO_JOINTS: "the data set states no joint of the hand, so its fit cannot be checked",
        dexycb.NO_HAND: "DexYCB: the labels of the picture are all zero",
        ho3d.NOT_ANNOTATED: "HO-3D: the labels of the picture are None",
        interhand.NO_MANO_FIT: "InterHand2.6M: the hand is there, and has no MANO parameters",
    }


def _rules() -> dict[str, str]:
    from hawor_pipeline.conversion import confidence

    return {
        confidence.BLACK_IMAGE: "the crop shows nothing, as ARCTIC's first and last frames sometimes do",
        confidence.FEW_JOINTS: "fewer joints in the picture than `min_joints_in_frame`",
        confidence.SMALL_BOX: "the box is smaller than `min_box_px`",
    }


SECTIONS = ("Formula", "Convention", "Args", "Returns", "Raises", "Source", "Quirk", "Example")


def metrics_page() -> str:
    """Every metric and loss term with formula, unit, source and quirks, from their docstrings."""
    from hawor_pipeline.core import losses, metrics
    from hawor_pipeline.core.loss import EnhancedTrainingLoss

    parts = [NOTE, "# Metrics and losses\n"]
    for package, title in ((metrics, "Metrics"), (losses, "Loss terms")):
        parts += [f"## {title}\n", _joined(_sections(package)["Summary"]), ""]
        rooms = sorted({getattr(package, name).__module__ for name in package.__all__})
        for room in rooms:
            parts += [f"### {room.removeprefix('hawor_pipeline.core.')}\n"]
            parts += [_joined(_sections(sys.modules[room])["Summary"]), ""]
            names = [name for name in package.__all__ if getattr(package, name).__module__ == room]
            for name in names:
                parts += _entry(name, getattr(package, name))
    parts += ["## The training loss\n", *_entry("EnhancedTrainingLoss", EnhancedTrainingLoss)]
    return "\n".join(parts).rstrip() + "\n"


def _entry(name: str, thing: object) -> list[str]:
    """One function or class: heading, first line, and the sections that say what it computes."""
    sections = _sections(thing)
    lines = [f"#### {name}\n", _joined(sections["Summary"]), ""]
    titles = {
        "Formula": "Formula",
        "Convention": "Convention",
        "Returns": "Gives",
        "Source": "Source",
        "Quirk": "Quirk",
    }
    for section, title in titles.items():
        if section in sections:
            lines.append(f"- {title}: {_joined(sections[section])}")
    return [*lines, ""]


def _sections(thing: object) -> dict[str, list[str]]:
    """A docstring by section; what stands before the first is the summary."""
    sections: dict[str, list[str]] = {"Summary": []}
    current = "Summary"
    for line in (inspect.getdoc(thing) or "").splitlines():
        head, colon, rest = line.partition(":")
        if colon and head in SECTIONS:
            current, line = head, rest
            sections[current] = []
        sections[current].append(line.strip())
    return sections


def _joined(lines: list[str]) -> str:
    return " ".join(line for line in lines if line).replace("*batch", "\\*batch")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {
    "configuration.md": configuration_page,
    "command-line.md": command_line_page,
    "metric-tables.md": metric_tables_page,
    "shards.md": shards_page,
    "training-metrics.md": training_metrics_page,
    "metrics-and-losses.md": metrics_page,
}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
