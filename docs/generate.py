"""Writes the generated pages of docs/reference: python docs/generate.py. A test keeps them fresh."""

import argparse
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


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"configuration.md": configuration_page, "command-line.md": command_line_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
