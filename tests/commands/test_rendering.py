"""The same sections as Markdown, LaTeX and HTML."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lcpdn_pl.commands.rendering import Section, html, latex, markdown


@pytest.fixture
def section(tmp_path: Path) -> Section:
    picture = tmp_path / "curve.png"
    Image.new("RGB", (160, 90)).save(picture)
    table = pd.DataFrame(
        {"method": ["**lcpdn_a**", "unet & <b>"], "Dice": ["**74.50 ± 1.41**", "missing"]}
    )
    return Section("Slices, mixed", "50 % of `compat`.", {"All": table}, {"A curve": picture})


def test_markdown(section: Section) -> None:
    assert markdown("Results", [section, Section("Empty")]).splitlines() == [
        "# Results",
        "",
        "## Slices, mixed",
        "",
        "50 % of `compat`.",
        "",
        "All:",
        "",
        "| method | Dice |",
        "| --- | --- |",
        "| **lcpdn_a** | **74.50 ± 1.41** |",
        "| unet & <b> | missing |",
        "",
        "![A curve](curve.png)",
        "",
        "## Empty",
    ]


def test_latex_escapes_and_keeps_bold(section: Section) -> None:
    found = latex([section])
    assert r"\textbf{lcpdn\_a} & \textbf{74.50 $\pm$ 1.41} \\" in found
    assert r"unet \& <b> & missing \\" in found
    assert r"\caption{Slices, mixed. All.}" in found
    for part in ("{tabular}{lr}", r"\toprule", r"\midrule", r"\bottomrule"):
        assert found.count(part) == 1
    special = pd.DataFrame({"a": ["50% #1 $x {y} ~ ^ \\ `z`"]})
    escaped = r"50\% \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} z"
    assert escaped in latex([Section("t", tables={"c": special})])


def test_page_escapes_and_loads_nothing(section: Section, tmp_path: Path) -> None:
    page = html("Results <1>", [section])
    assert "<title>Results &lt;1&gt;</title>" in page
    assert "<td><strong>lcpdn_a</strong></td><td><strong>74.50 ± 1.41</strong></td>" in page
    assert '<td>unet &amp; &lt;b&gt;</td><td class="missing">missing</td>' in page
    loaded: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "link", "iframe"}
            loaded.extend(str(value) for name, value in attrs if name in {"src", "href"})

    Reader().feed(page)
    content = base64.b64encode((tmp_path / "curve.png").read_bytes()).decode()
    assert loaded == ["#s1", f"data:image/png;base64,{content}"]
    assert 'width="100"' in page  # of 160 pixels
