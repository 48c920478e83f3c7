"""The Markdown of a data card as HTML: headings, paragraphs, bullets, tables and bold; the rest is plain text."""

import re
from collections.abc import Iterator
from itertools import groupby

from markupsafe import Markup, escape


def to_html(text: str, *, top_level: int = 3) -> Markup:
    """Render the subset; the first heading level becomes `<h{top_level}>`. Text is escaped."""
    return Markup("\n").join(
        block for kind, lines in groupby(text.splitlines(), _kind) for block in _render(kind, list(lines), top_level)
    )


def _kind(line: str) -> str:
    if not line.strip():
        return "blank"
    if line.startswith("#"):
        return "heading"
    return {"|": "table", "- ": "list"}.get(line[:1] if line.startswith("|") else line[:2], "paragraph")


def _render(kind: str, lines: list[str], top_level: int) -> Iterator[Markup]:
    if kind == "heading":
        for line in lines:
            level = min(6, top_level - 1 + len(line) - len(line.lstrip("#")))
            yield Markup("<h{0}>{1}</h{0}>").format(level, _inline(line.lstrip("# ")))
    elif kind == "table":
        yield _table([[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines])
    elif kind == "list":
        items = Markup("").join(Markup("<li>{}</li>").format(_inline(line[2:])) for line in lines)
        yield Markup("<ul>{}</ul>").format(items)
    elif kind == "paragraph":
        yield Markup("<p>{}</p>").format(_inline(" ".join(lines)))


def _table(rows: list[list[str]]) -> Markup:
    head, body = rows[0], [row for row in rows[1:] if not all(set(cell) <= set("-: ") for cell in row)]
    heads = Markup("").join(Markup('<th scope="col">{}</th>').format(_inline(cell)) for cell in head)
    lines = Markup("").join(Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, row))) for row in body)
    return Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        heads, lines
    )


def _cell(text: str) -> Markup:
    return Markup("<td>{}</td>").format(_inline(text))


def _inline(text: str) -> Markup:
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))
