"""From the values of a report to its files: the page, its Markdown, its numbers as JSON, and the images."""

import base64
import json
from dataclasses import asdict
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from hawor_pipeline.reporting.results import Entry

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"
Context = dict[str, Any]  # names in a template to their values
# Without links, images and HTML: a name from a foreign dataset must not become anything that runs.
_CARD = MarkdownIt("zero").enable(["heading", "list", "table", "emphasis"])


def render_page(template: str, context: Context) -> str:
    """Render a template of this package; pages (`.html.j2`) are escaped and carry plotly.js."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hawor_pipeline.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "share": share, "json": _script_json, "unit": unit_value}
    script = {"plotly_js": Markup(_plotly_js())} if template.endswith(".html.j2") else {}
    return environment.get_template(template).render(context, **script)


def render_report(context: Context) -> dict[str, bytes]:
    """Render the files of a report by name: the page, its Markdown with the images that it shows, its numbers."""
    numbers = json.dumps(_machine_readable(context), indent=2, sort_keys=True) + "\n"
    images = {f"pictures/{item['picture']}": item["uri"].split(",", 1)[1] for item in context["gallery"]}
    return {
        HTML: render_page("report.html.j2", context).encode(),
        MARKDOWN: render_page("report.md.j2", context).encode(),
        JSON: numbers.encode(),
        **{name: base64.b64decode(data) for name, data in images.items()},
    }


def render_comparison(context: Context) -> dict[str, bytes]:
    """Render the files of a page about two runs by name."""
    rows = [{**row.item.to_dict(), "verdict": row.verdict} for row in context["rows"]]
    numbers = {name: context[name] for name in ("run_ids", "source", "protocol", "dataset_version")}
    numbers |= {"differences": rows, "settings": context["settings"]}
    return {
        HTML: render_page("comparison.html.j2", context).encode(),
        JSON: (json.dumps(numbers, indent=2, sort_keys=True, default=str) + "\n").encode(),
    }


def number(value: float | None, digits: int = 1) -> str:
    """Format a value; a dash where it is not defined."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def share(value: float | None, digits: int = 0) -> str:
    """Format a share in per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def unit_value(value: float | None, unit: str) -> str:
    """Format a value with its unit; metrics without unit as plain numbers."""
    if value is None:
        return "–"
    if unit == "1":
        return f"{value:.3f}"
    symbol = unit.replace("deg", "°").replace("^2", "²").replace("^3", "³")
    return f"{number(value, 2 if abs(value) < 1 else 1)}\u00a0{symbol}"


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _script_json(value: Any) -> Markup:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")


_NUMBERS = ("run_id", "source", "protocol", "dataset_version", "checkpoint_sha256", "targets", "floors", "rivals")


def _machine_readable(context: Context) -> Context:
    """Select the report's numbers, without its drawings."""
    paired, decision = context["paired"], context["decision"]
    return {
        **{name: context[name] for name in (*_NUMBERS, "trained")},
        "headline": asdict(context["headline"]),
        "metrics": {name: {**_entry_numbers(e), "unit": m.unit} for name, (e, m) in context["metrics"].items()},
        "strata": {
            table.column: {row.label: _entry_numbers(row.entry) for row in table.rows} for table in context["strata"]
        },
        "findings": [asdict(finding) for finding in context["findings"]],
        "gallery": [{k: v for k, v in item.items() if k != "uri"} for item in context["gallery"]],
        "decision": asdict(decision) if decision else None,
        "paired": [{**row.item.to_dict(), "against": row.other, "verdict": row.verdict} for row in paired],
        "provenance": dict(context["provenance"]),
    }


def _entry_numbers(e: Entry) -> Context:
    return {"value": e.value, "ci_low": e.low, "ci_high": e.high, "n": e.n, "sequences": e.sequences}


def to_html(text: str, *, top_level: int = 3) -> Markup:
    """Render the Markdown of a data card: headings, paragraphs, bullets, tables and emphasis; the rest is plain text.

    The first heading level becomes `<h{top_level}>`. Text is escaped.
    """
    tokens = _CARD.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, top_level - 1 + int(token.tag[1]))}"
        if token.type == "th_open":
            token.attrSet("scope", "col")
    html = _CARD.renderer.render(tokens, _CARD.options, {})
    return Markup(html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>"))
