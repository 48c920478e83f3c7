"""Generate the pages of docs/reference and the files in configs/ that follow from the schema: python docs/generate.py.

Tests compare these files with the code.
"""

import argparse
import ast
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hawor_pipeline.cli import build_parser
from hawor_pipeline.config import ConversionConfig, Settings, TrainingConfig, commented_yaml
from hawor_pipeline.paths import config_dir

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- written by docs/generate.py -->\n"


def configuration_page() -> str:
    """Return the page of all settings with type, default and meaning."""
    parts = [
        NOTE,
        "# Configuration\n",
        "A configuration is one YAML file with one schema. An unknown key is an error that suggests the nearest.\n"
        "`hawor-pipeline create-config PATH` writes one with a comment per key; `train --set KEY=VALUE` overrides.\n",
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
    """Return the type of a field in the JSON schema, in words."""
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
    """Return the page of all commands with their options."""
    parser = build_parser()
    parts = [
        NOTE,
        "# Command line\n",
        "Exit codes: 0 success; 1 corrupt data, full disk, failed run (`doctor`: something required is missing); 2\n"
        "usage error, invalid configuration, missing path or unknown subject. A usage error prints one message: what\n"
        "was found, what was expected, and what to do.\n",
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
    "predictions": "Predictions of the network, one row per sample; every other table is computed from them.",
    "samples": "One row per sample: its keys and strata, and every metric. Null if a metric is not defined.",
    "joints": "One row per sample and joint.",
    "summary": "Means over strata, with 95 % intervals from a bootstrap over sequences.",
    "comparison": "Paired differences of the run to baselines and rivals, with intervals.",
    "robustness": "Errors of the network on bounding boxes and images that were degraded on purpose.",
    "training": "Curves of the training run.",
}


def metric_tables_page() -> str:
    """Return the page of all tables, columns, metrics, protocols and degradations of evaluation."""
    from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS, SUMMARY_METRICS
    from hawor_pipeline.evaluation.degrade import KINDS
    from hawor_pipeline.evaluation.protocols import PROTOCOLS
    from hawor_pipeline.evaluation.schemas import SCHEMAS, column_docs

    parts = [
        NOTE,
        "# Metric tables\n",
        "Tables are Parquet files under `data/metrics/<table>/run_id=<run>/`. They are validated against these\n"
        "schemas when written, and the metadata of each file contain unit and meaning of every column. Examples:\n"
        "[query the tables](../howto/query-the-tables.md).\n",
    ]
    for table in SCHEMAS:
        rows = [row for row in column_docs(table) if row[0] not in SAMPLE_METRICS]
        parts += [f"## {table}\n", f"{TABLES[table]}\n", *_table(("column", "type", "unit", "meaning"), rows)]
        if table == "samples":
            parts += ["The table also has a column (double, null if undefined) for each of the metrics below.\n"]
    samples = [(name, m.unit, m.better, m.meaning) for name, m in SAMPLE_METRICS.items()]
    summary = [(name, m.unit, m.better, m.meaning) for name, m in SUMMARY_METRICS.items()]
    head = ("metric", "unit", "better", "meaning")
    parts += ["## Metrics of a sample\n", *_table(head, samples)]
    parts += ["## Metrics of the summary only\n", *_table(head, summary), "## Protocols\n"]
    for protocol in PROTOCOLS.values():
        views = "all views" if protocol.views is None else f"views {', '.join(map(str, protocol.views))}"
        data = "any data" if protocol.sources is None else f"data: {', '.join(protocol.sources)}"
        headlines = ", ".join(f"`{name}`" for name in protocol.headlines)
        parts += [f"### {protocol.name}\n", f"{protocol.meaning[0].upper()}{protocol.meaning[1:]} ({views}; {data})."]
        parts += [f"Headline metrics: {headlines}. {protocol.quirks}\n"]
    kinds = [(name, ", ".join(map(str, kind.levels)), kind.unit, kind.meaning) for name, kind in KINDS.items()]
    parts += ["## Degradations of the robustness table\n", *_table(("kind", "levels", "unit", "meaning"), kinds)]
    return "\n".join(parts)


def training_metrics_page() -> str:
    """Return the page of all numbers that `TrainingEvaluator` computes for a batch."""
    from dataclasses import fields

    from hawor_pipeline.evaluation.training_metrics import TrainingMetrics

    rows = [(f.name, f.metadata["unit"], f.metadata["formula"]) for f in fields(TrainingMetrics)]
    return "\n".join(
        [
            NOTE,
            "# Training metrics\n",
            "Fields of `TrainingMetrics`, which `TrainingEvaluator.evaluate_batch` returns: means over the valid\n"
            "frames of the batch, right-hand convention, camera frame. Unavailable numbers are NaN, never 0.\n",
            *_table(("field", "unit", "formula"), rows),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, code: bool = True) -> list[str]:
    """Return a table; with `code`, the first column holds names of the code."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    first = "`{}`" if code else "{}"
    lines += [f"| {first.format(row[0])} | {' | '.join(_cell(str(cell)) for cell in row[1:])} |" for row in rows]
    return [*lines, ""]


LEDGER_MEANING = {
    "subject": "s01..s10, or the name from the reader of another dataset",
    "sequence": "as in the raw files",
    "view": "as in the annotations",
    "frame": "number in the file name of the image; -1: the whole view",
    "side": "left or right; empty: both",
    "reason": "one of the reasons below",
    "samples": "number of rows of the annotations that are missing",
}
DISTANCES_MEANING = {
    "subject": "as in the annotations",
    "sequence": "as in the annotations",
    "gt_index": "index of the ground truth; joins with the annotations' gt_index",
    "side": "left or right",
    "hand_object_distance_m": "smallest distance of a hand vertex to the surface of the object, m; once per moment",
}


def shards_page() -> str:
    """Return the page of all columns of a shard's tables, and of all reasons of skipped frames and invalid rows."""
    from hawor_pipeline.shards import schema as schema

    # The module moved from `data` to `conversion`; shards of this converter version still name the old place.
    meanings = {name: column.meaning.replace("data/conf", "conversion/conf") for name, column in schema.COLUMNS.items()}
    columns = [
        (c.name, str(c.kind), " x ".join(map(str, c.shape)), c.unit, meanings[c.name]) for c in schema.COLUMNS.values()
    ]
    return "\n".join(
        [
            NOTE,
            "# Columns of the shards\n",
            "Tables of a converted sequence. The metadata of the Parquet file also contain shape, unit and meaning of\n"
            "each column of the annotations. Examples: [read shards](../howto/read-shards.md).\n",
            f"## {schema.ANNOTATIONS_FILE}\n",
            "One row per hand, image and view, sorted by view, side and frame. Arrays are lists of fixed\n"
            "size, row by row.\n",
            *_table(("column", "type", "shape", "unit", "meaning"), columns),
            f"## {schema.IMAGES_FILE}\n",
            f"Arrow file (IPC) with the one column `jpeg`: record i is the crop of row i of\n"
            f"{schema.ANNOTATIONS_FILE}, in batches of {schema.BATCH_ROWS} records.\n",
            f"## {schema.LEDGER_FILE}\n",
            "Skipped frames: one row per image, hand or view without a row in the annotations.\n",
            *_table(("column", "type", "meaning"), _schema_rows(schema.LEDGER_SCHEMA, LEDGER_MEANING)),
            "### Reasons\n",
            *_table(("reason", "meaning"), list(_reasons().items())),
            "### Reasons of other datasets\n",
            *_table(("reason", "meaning"), list(_other_reasons().items())),
            "### Invalid rows\n",
            "These rows are kept with `valid` false; `skip_reason` is the first rule that fails:\n",
            *_table(("skip_reason", "meaning"), list(_rules().items())),
            f"## {schema.DISTANCES_FILE}\n",
            "One row per hand and moment of ground truth with an image in any view. ARCTIC only.\n",
            *_table(("column", "type", "meaning"), _schema_rows(schema.DISTANCES_SCHEMA, DISTANCES_MEANING)),
        ]
    )


def _schema_rows(schema: Sequence, meaning: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(field.name, str(field.type), meaning[field.name]) for field in schema]


def _reasons() -> dict[str, str]:
    from hawor_pipeline.conversion import ledger

    return {
        ledger.NO_IMAGE: "ground truth without an image",
        ledger.CORRUPT_IMAGE: "the image is damaged or cut short, as a few of ARCTIC's released ones are",
        ledger.NO_GROUND_TRUTH_BEFORE: "an image before ground truth 0, by `ioi_offset`",
        ledger.NO_GROUND_TRUTH_AFTER: "an image after the last ground truth",
        ledger.OUTSIDE_IMAGE: "no part of the hand is in the image",
        ledger.BEHIND_CAMERA: "the hand, or part of it, is behind the camera, so it has no bounding box",
        ledger.VIEW_ABSENT: "the view has no images (a single row, frame -1)",
        ledger.RAW_FILES_GONE: "converted earlier, now missing in the raw data; in the manifest; the folder stays",
        ledger.NO_RAW_FILES: "has images, but no ground truth (`raw_seqs`); in the manifest",
        ledger.NO_IMAGES: "no view has images; in the manifest (`left_out_sequences`), because there is no ledger",
    }


def _other_reasons() -> dict[str, str]:
    from hawor_pipeline.conversion import ledger
    from hawor_pipeline.sources import reader

    return {
        ledger.NO_JOINTS: "the dataset has no joints of the hand, so its fit cannot be checked",
        reader.NO_LABEL: "the image has no labels: their file or entry is missing",
        reader.NO_HAND: "DexYCB: the labels of the image are all zero",
        reader.NOT_ANNOTATED: "HO-3D: the labels of the image have no hand pose",
        reader.NO_MANO_FIT: "InterHand2.6M: the hand is present but has no MANO parameters",
    }


def _rules() -> dict[str, str]:
    from hawor_pipeline.conversion import confidence

    return {
        confidence.BLACK_IMAGE: "the crop is black, as in some of ARCTIC's first and last frames",
        confidence.FEW_JOINTS: "fewer joints in the image than `min_joints_in_frame`",
        confidence.SMALL_BOX: "the bounding box is smaller than `min_box_px`",
    }


TESTS = Path(__file__).parents[1] / "hawor_pipeline_tests"
# Compared once with the original code, which is not in this repository: date, subject, original, largest difference.
MEASURED = (
    ("2026-12-01", "metrics of `hot3d-world`", "HaWoR, `eval_utils.py`", "6e-7 relative (tracks of 230 and 60 frames)"),
    (
        "2026-12-01",
        "conversion of ARCTIC",
        "ARCTIC, processing, 2,214 rows",
        "joints 2.4e-7 m, 1.5e-4 px, boxes 2e-4 px",
    ),
    (
        "2026-12-01",
        "MPJPE, MRRPE, CDev, ACC, AAE, success rate of `core.metrics`",
        "ARCTIC, `eval_modules.py`",
        "1.8e-4 relative",
    ),
    ("2026-12-01", "upload to ARCTIC's leaderboard", "ARCTIC, the server's path", "joints 1.2e-7 m"),
    ("2026-12-01", "export of a ViT-H network", "HaWoR, its network", "rotation matrices 5.5e-6"),
    ("2026-12-01", "import of HaMeR's network", "HaMeR, its network", "4e-6"),
    ("2026-12-01", "tars of `export-webdataset`", "HaMeR, its loader, 828 rows", "4e-5 px"),
    ("2026-12-01", "metrics of `freihand` and `ho3d`", "FreiHAND and HO-3D, `eval.py`", "5e-7 relative"),
    ("2026-12-01", "InterHand2.6M, an excerpt of the released labels", "its projection", "2e-13 px"),
)


@dataclass(frozen=True)
class Agreement:
    """Declaration of a test that compares with a publication: the arguments of its marker `agreement`."""

    test: str  # file below hawor_pipeline_tests, and function
    subject: str
    publication: str
    compared: str
    tolerance: float
    unit: str


def agreements() -> list[Agreement]:
    """Read the markers `agreement` of all tests, by file and line; the tests themselves are not imported."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(function, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.agreement":
                    values = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                    found.append(Agreement(f"{path.relative_to(TESTS).as_posix()}::{function.name}", **values))
    return found


def agreement_page() -> str:
    """Return the page of what is compared with which publication, how, and to what tolerance."""
    rows = [(a.subject, a.publication, a.compared, f"{a.tolerance:g} {a.unit}", f"`{a.test}`") for a in agreements()]
    head = ("subject", "publication", "compared", "tolerance", "test")
    once = [(subject, original, difference, date) for date, subject, original, difference in MEASURED]
    return "\n".join(
        [
            NOTE,
            "# Agreement with publications\n",
            "Each row is a test of `make test`: its marker `agreement` has the words and the tolerance of this page,\n"
            "and the test uses that very tolerance. Reasons and differences that are kept: [decision\n"
            "0031](../decisions/0031-headlines-are-published-numbers.md) and the quirks of each\n"
            "[protocol](metric-tables.md#protocols).\n",
            *_table(head, rows, code=False),
            "## Compared once with the original code\n",
            "The originals and licensed data are not part of this repository, so these are records, not tests.\n",
            *_table(("subject", "original", "largest difference", "date"), once, code=False),
        ]
    )


SECTIONS = ("Formula", "Convention", "Args", "Returns", "Raises", "Source", "Quirk", "Example")


def metrics_page() -> str:
    """Return the page of all metrics and loss terms with formula, unit, source and quirks, from their docstrings."""
    from hawor_pipeline.core import losses, metrics
    from hawor_pipeline.core.loss import EnhancedTrainingLoss

    parts = [NOTE, "# Metrics and losses\n"]
    for package, title in ((metrics, "Metrics"), (losses, "Loss terms")):
        parts += [f"## {title}\n", *_opening(package)]
        rooms = sorted({getattr(package, name).__module__ for name in package.__all__})
        for room in rooms:
            parts += [f"### {room.removeprefix('hawor_pipeline.core.')}\n", *_opening(sys.modules[room])]
            names = [name for name in package.__all__ if getattr(package, name).__module__ == room]
            for name in names:
                parts += _entry(name, getattr(package, name))
    parts += ["## The training loss\n", *_entry("EnhancedTrainingLoss", EnhancedTrainingLoss)]
    return "\n".join(parts).rstrip() + "\n"


def _opening(module: object) -> list[str]:
    """Return what a module states about all its functions, with its convention of arguments and units."""
    sections = _sections(module)
    lines = [_joined(sections["Summary"]), ""]
    return [*lines, f"Convention: {_joined(sections['Convention'])}", ""] if "Convention" in sections else lines


def _entry(name: str, thing: object) -> list[str]:
    """Return the entry of a function or class: heading, first line, and the sections that define its result."""
    sections = _sections(thing)
    lines = [f"#### {name}\n", _joined(sections["Summary"]), ""]
    titles = {
        "Formula": "Formula",
        "Convention": "Convention",
        "Returns": "Returns",
        "Source": "Source",
        "Quirk": "Quirk",
    }
    for section, title in titles.items():
        if section in sections:
            lines.append(f"- {title}: {_joined(sections[section])}")
    return [*lines, ""]


def _sections(thing: object) -> dict[str, list[str]]:
    """Split a docstring into sections; the text before the first section is the summary."""
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
    "agreement.md": agreement_page,
}


def main() -> None:
    """Write the pages, and the configurations and JSON schemas that follow from the schema."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
    for name, config in {"training_config": TrainingConfig(), "data_config": ConversionConfig()}.items():
        schema = json.dumps(config.model_json_schema(), indent=2)
        (config_dir() / f"{name}.schema.json").write_text(schema + "\n", encoding="utf-8")
        settings = config_dir() / f"{name}.yaml"
        header = settings.read_text(encoding="utf-8").splitlines(keepends=True)[0]
        settings.write_text(header + commented_yaml(config), encoding="utf-8")


if __name__ == "__main__":
    main()
