"""From the values of a report to its files: the page, its Markdown, its numbers as JSON, and the pictures."""

import base64
import json
from typing import Any

import jinja2
from markupsafe import Markup

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


def render_page(template: str, context: dict[str, Any]) -> str:
    """A template of this package as text; pages (`.html.j2`) are escaped and carry plotly.js."""
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


def render_report(context: dict[str, Any]) -> dict[str, bytes]:
    """The files of a report by name: the page, its Markdown with the pictures that it shows, its numbers."""
    numbers = json.dumps(_machine_readable(context), indent=2, sort_keys=True) + "\n"
    images = {f"pictures/{item['picture']}": item["uri"].split(",", 1)[1] for item in context["gallery"]}
    return {
        HTML: render_page("report.html.j2", context).encode(),
        MARKDOWN: render_page("report.md.j2", context).encode(),
        JSON: numbers.encode(),
        **{name: base64.b64decode(data) for name, data in images.items()},
    }


def render_comparison(context: dict[str, Any]) -> dict[str, bytes]:
    """The files of a page about two runs by name."""
    rows = [{**row["item"].to_dict(), "verdict": row["verdict"]} for row in context["rows"]]
    numbers = {name: context[name] for name in ("run_ids", "source", "protocol", "dataset_version")}
    numbers |= {"differences": rows, "settings": context["settings"]}
    return {
        HTML: render_page("comparison.html.j2", context).encode(),
        JSON: (json.dumps(numbers, indent=2, sort_keys=True, default=str) + "\n").encode(),
    }


def number(value: float | None, digits: int = 1) -> str:
    """A value for people; a dash where it is not defined."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def share(value: float | None, digits: int = 0) -> str:
    """A share as per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def unit_value(value: float | None, unit: str) -> str:
    """A value with its unit, shares of metrics without unit as they are."""
    if value is None:
        return "–"
    if unit == "1":
        return f"{value:.3f}"
    symbol = unit.replace("deg", "°").replace("^2", "²").replace("^3", "³")
    return f"{number(value, 2 if abs(value) < 1 else 1)}\u00a0{symbol}"


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that needs no file."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _script_json(value: Any) -> Markup:
    """JSON that can stand inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")


def _machine_readable(context: dict[str, Any]) -> dict[str, Any]:
    """The report's numbers without its drawings."""

    def entry(e: Any) -> dict[str, Any] | None:
        return (
            None
            if e is None
            else {"value": e.value, "ci_low": e.low, "ci_high": e.high, "n": e.n, "sequences": e.sequences}
        )

    return {
        **{
            k: context[k]
            for k in ("run_id", "source", "protocol", "dataset_version", "checkpoint_sha256", "headline", "targets")
        },
        "metrics": {name: {**(entry(e) or {}), "unit": m.unit} for name, (e, m) in context["metrics"].items()},
        "floors": context["floors"],
        "rivals": context["rivals"],
        "strata": {
            table["column"]: {row["label"]: entry(row["entry"]) for row in table["rows"]} for table in context["strata"]
        },
        "findings": [
            {"tone": f.tone, "title": f.title, "evidence": f.evidence, "action": f.action} for f in context["findings"]
        ],
        "gallery": [{k: v for k, v in item.items() if k != "uri"} for item in context["gallery"]],
        "decision": context["decision"],
        "trained": context["trained"],
        "paired": [
            {**row["item"].to_dict(), "against": row["other"], "verdict": row["verdict"]} for row in context["paired"]
        ],
        "provenance": dict(context["provenance"]),
    }
