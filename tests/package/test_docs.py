"""The README and docs/: links that lead somewhere, small pictures, the rooms in their order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_pictures_of_the_panels_are_small():
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.webp"))
    assert [picture.stem for picture in pictures] == ["dropout_lab", "fisher_explorer", "landscape_explorer"]
    assert [picture.name for picture in pictures if picture.stat().st_size > 250_000] == []


def test_the_rooms_stand_in_the_readme_in_their_order():
    from tests.package.test_layers import ROOMS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z]+)` \|", readme, re.MULTILINE) == ROOMS
