"""The subset of Markdown that a data card uses, and nothing that could run."""

from hawor_pipeline.reporting.pages import to_html

CARD = """# Data card: synthetic hands

**SYNTHETIC SAMPLE.** No person
was filmed.

## Views

| view | rows |
|---|---|
| 0 | 12 |
| 1 | <b>7</b> |

- s01/box: no images
- s02/box: <script>alert(1)</script>
- [s03](javascript:alert(1)) ![s04](https://example.org/a.png)
"""


def test_blocks_become_elements() -> None:
    page = " ".join(to_html(CARD).split()).replace("> <", "><")
    assert "<h3>Data card: synthetic hands</h3>" in page
    assert "<h4>Views</h4>" in page
    assert "<p><strong>SYNTHETIC SAMPLE.</strong> No person was filmed.</p>" in page
    assert "<tr><td>0</td><td>12</td></tr>" in page
    assert "---" not in page
    assert page.count("<li>") == 3


def test_text_is_escaped() -> None:
    page = str(to_html(CARD))
    assert "&lt;b&gt;7&lt;/b&gt;" in page
    assert "<script>" not in page
    assert "<a" not in page
    assert "<img" not in page
    assert "[s03](javascript:alert(1))" in page
