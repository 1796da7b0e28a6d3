"""What a report consists of, as Markdown, LaTeX and one HTML page."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import pandas as pd
from jinja2 import Environment
from PIL import Image

_BOLD = re.compile(r"\*\*(.+)\*\*")
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "`": "",
    }
)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        text: What is to be known of it, in plain words.
        tables: By caption; cells are text, all of it bold where it stands between ``**``.
        figures: PNG files by caption.
    """

    title: str
    text: str = ""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Headings, texts and tables; figures are files beside it."""
    lines = [f"# {title}"]
    for section in sections:
        lines += ["", f"## {section.title}"]
        lines += ["", section.text] if section.text else []
        for caption, table in section.tables.items():
            rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
            lines += ["", f"{caption}:", "", *(f"| {' | '.join(row)} |" for row in rows)]
        for caption, path in section.figures.items():
            lines += ["", f"![{caption}]({path.name})"]
    return "\n".join(lines) + "\n"


def latex(sections: Sequence[Section]) -> str:
    """The tables alone, each a ``table`` environment in the style of the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}."]
    for section in sections:
        for caption, table in section.tables.items():
            cells = table.map(_latex_cell)
            cells.columns = pd.Index([_latex_cell(name) for name in table.columns])
            parts.append(
                cells.to_latex(
                    index=False,
                    escape=False,
                    position="tb",
                    column_format="l" + "r" * (len(cells.columns) - 1),
                    caption=f"{_latex_cell(section.title)}. {_latex_cell(caption)}.",
                )
            )
    return "\n".join(parts)


def _latex_cell(text: str) -> str:
    bold = _BOLD.fullmatch(text)
    plain = (bold[1] if bold else text).translate(_LATEX)
    return rf"\textbf{{{plain}}}" if bold else plain


def html(title: str, sections: Sequence[Section]) -> str:
    """One page that holds its style and its figures, and loads nothing."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["bold"] = lambda text: bool(_BOLD.fullmatch(text))
    environment.filters["plain"] = lambda text: _BOLD.sub(r"\1", text)
    environment.filters["embedded"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    environment.filters["width"] = _shown_width
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(title=title, sections=sections)


def _shown_width(path: Path) -> int:
    """Pixels of the page, by which a picture's letters are nearly as large as the text's."""
    with Image.open(path) as picture:
        return round(picture.width / 1.6)
