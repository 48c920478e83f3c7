"""Checks of assets, as small functions that the assets call: they cost no step of their own."""

from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg


def checked(name: str, passed: bool, *, warn: bool = False, **metadata: Any) -> dg.AssetCheckResult:
    """Build the result of a check; `warn` makes a failure a warning. Lists and mappings show as JSON."""
    shown = {
        key: dg.MetadataValue.json(value) if isinstance(value, (list, tuple, Mapping)) else value
        for key, value in metadata.items()
    }
    severity = dg.AssetCheckSeverity.WARN if warn else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(check_name=name, passed=bool(passed), severity=severity, metadata=shown)


def checkpoint_problem(path: Path, sha256: str) -> str | None:
    """Describe the problem of a checkpoint: hash other than recorded, unreadable, or weights that are not finite."""
    import torch

    from hawor_pipeline.errors import CheckpointError
    from hawor_pipeline.models.weight_files import read_weights
    from hawor_pipeline.provenance import sha256_file

    if (found := sha256_file(path)) != sha256:
        return f"found sha256 {found}, expected {sha256} as recorded"
    try:
        weights = read_weights(path).tensors
    except CheckpointError as error:
        return str(error)
    bad = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    return f"{len(bad)} weights are not finite, first {bad[0]}" if bad else None


class _Requests(HTMLParser):
    """Collects the addresses that a browser would fetch while it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            fetched = name in ("src", "srcset", "poster", "data") or (tag == "link" and name == "href")
            if fetched and value and not value.startswith(("data:", "#")):
                self.found.append(f"<{tag} {name}={value[:80]}>")


def external_requests(html: str) -> list[str]:
    """Return the tags of a page that make a browser fetch something besides the page itself."""
    parser = _Requests()
    parser.feed(html)
    return parser.found
