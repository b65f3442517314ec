"""Is every picture and page that the README and docs/ point to there, and are the pictures small?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_pictures_of_the_panels_are_small():
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.webp"))
    assert [picture.stem for picture in pictures] == ["dropout_lab", "fisher_explorer", "landscape_explorer"]
    assert [picture.name for picture in pictures if picture.stat().st_size > 250_000] == []
