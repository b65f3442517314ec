"""A self-contained HTML page of pictures, tables and sentences."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdrop_viz.base.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #fdfdfc; --line: #d9dbdf; --quiet: #5c636e; --mark: #f3f1ea }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --paper: #16181c; --line: #3a3e46; --quiet: #9aa1ad; --mark: #22252b } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: 0 } h2 { font-size: 1.25rem; margin-top: 2.4rem }
p.note { color: var(--quiet); margin-top: .2rem } p.finding { background: var(--mark); padding: .6rem .9rem;
  border-left: 4px solid #3b7a9e } figure { margin: 1.2rem 0; overflow-x: auto }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
figcaption { color: var(--quiet); font-size: .92rem } .table { overflow-x: auto }
table { border-collapse: collapse; font-size: .92rem } th, td { padding: .25rem .7rem; text-align: right;
  border-bottom: 1px solid var(--line) } th { font-weight: 600 }
"""


@dataclass
class Page:
    """An HTML page without outside assets, built from top to bottom; every text is escaped.

    >>> page = Page("A walk")
    >>> page.heading("One"); page.text("2 < 3")
    >>> "2 &lt; 3" in page.html()
    True
    """

    title: str
    parts: list[str] = field(default_factory=list, repr=False)

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, *, kind: str = "") -> None:
        """A paragraph; `kind` "finding" marks a measured result, "note" a quiet remark."""
        attribute = f' class="{html.escape(kind)}"' if kind else ""
        self.parts.append(f"<p{attribute}>{html.escape(text)}</p>")

    def table(self, frame: pd.DataFrame, *, digits: int = 4, caption: str = "") -> None:
        body = frame.to_html(float_format=lambda value: f"{value:.{digits}g}", border=0, escape=True)
        self.parts.append(f'<div class="table">{body}</div>')
        if caption:
            self.text(caption, kind="note")

    def picture(self, drawn: Axes | Figure, caption: str) -> None:
        """Add a matplotlib picture as an embedded PNG and close its figure."""
        import matplotlib.pyplot as plt

        figure: Any = getattr(drawn, "figure", None) or drawn
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight", facecolor="white")
        plt.close(figure)
        image = base64.b64encode(buffer.getvalue()).decode()
        text = html.escape(caption)
        self.parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{image}"><figcaption>{text}</figcaption></figure>'
        )

    def html(self) -> str:
        title = html.escape(self.title)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
            f"<body><h1>{title}</h1>{''.join(self.parts)}</body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        path = Path(path)
        with atomic_path(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
        return path
