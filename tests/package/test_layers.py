"""The direction of imports: a room uses only rooms below it, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gdrop_viz"
# from the top to the ground, as in the README's table of rooms
ROOMS = """commands widgets plots studies landscape finetuning curvature perturbation dropout fisher sites text models
base""".split()


def imports(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports: anywhere, in functions and for types alone too.

    A public name that is taken from the package itself counts as its home. A room's door leads to all of the room.
    """
    root = package.name
    files = {".".join((root, *file.relative_to(package).with_suffix("").parts)): file for file in package.rglob("*.py")}
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}
    arrows: dict[str, set[str]] = {}
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found = {target for node in ast.walk(tree) for target in _named(node, name, file.stem == "__init__")}
        arrows[name] = {_home(target, files) for target in found if target.split(".")[0] == root} - {name}
        if file.stem == "__init__" and name != root:
            arrows[name] |= {other for other in files if other.startswith(name + ".")}
    arrows[root] = (
        set()
    )  # its names are loaded when they are used: whoever imports the package is judged, not the package
    return arrows


def _named(node: ast.AST, module: str, is_door: bool) -> list[str]:
    """The full names that an import statement takes."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = module.split(".")
    above = above[: len(above) - node.level + is_door] if node.level else []
    return [".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names]


def _home(target: str, files: dict[str, Path]) -> str:
    """The longest beginning of a dotted name that is a module."""
    while target not in files and "." in target:
        target = target.rpartition(".")[0]
    return target


def against_the_order(arrows: dict[str, set[str]], rooms: list[str]) -> list[str]:
    """The imports of a room above (or of the whole package from below the top room), and modules in no room."""
    wrong = []
    for module, targets in sorted(arrows.items()):
        _, *place = module.split(".")
        if place in ([], ["__main__"]):
            continue
        if place[0] not in rooms:
            wrong.append(f"{module} is in no room")
            continue
        for target in sorted(targets):
            room = target.partition(".")[2].partition(".")[0]
            if rooms.index(place[0]) > (rooms.index(room) if room in rooms else -1) and (room or place[0] != rooms[0]):
                wrong.append(f"{module} -> {target}")
    return wrong


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import each other, directly or by way of others."""
    reached = {module: set(targets) for module, targets in arrows.items()}
    for between in arrows:
        for seen in reached.values():
            if between in seen:
                seen |= reached[between]
    found = {frozenset(m for m in reached if m in reached[n] and n in reached[m]) for n in reached}
    return [set(circle) for circle in found if circle]


def test_a_room_imports_only_from_rooms_below():
    assert against_the_order(imports(PACKAGE), ROOMS) == []


def test_no_circles():
    assert circles(imports(PACKAGE)) == []


def test_nothing_loose_but_the_two_doors():
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    folders = {file.parent.name for file in PACKAGE.glob("*/*.py")}
    assert folders == set(ROOMS)


# a made-up package of three rooms; every case turns one arrow round
SOUND = {
    "__init__.py": "from house.low.stones import stone",
    "__main__.py": "from house.top.roof import roof",
    "top/__init__.py": "from house.top.roof import roof",
    "top/roof.py": "import house as h\nfrom house.middle import wall",
    "middle/__init__.py": "from house.middle.wall import wall",
    "middle/wall.py": "def wall():\n    from house.low import stones",
    "low/__init__.py": "",
    "low/stones.py": "import os",
    "low/sand.py": "from house.low import stones",
}


@pytest.fixture
def house(tmp_path):
    def build(**changes: str) -> dict[str, set[str]]:
        package = tmp_path / "house"
        for name, text in {**SOUND, **changes}.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        return imports(package)

    return build


def test_a_sound_house_has_no_fault(house):
    arrows = house()
    assert arrows["house.middle.wall"] == {"house.low.stones"}
    assert against_the_order(arrows, ["top", "middle", "low"]) == []
    assert circles(arrows) == []


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("low/stones.py", "from house.middle.wall import wall", "house.low.stones -> house.middle.wall"),
        ("low/stones.py", "import house.middle.wall", "house.low.stones -> house.middle.wall"),
        ("low/stones.py", "from house import middle", "house.low.stones -> house.middle"),
        ("low/stones.py", "from ..middle import wall", "house.low.stones -> house.middle.wall"),
        ("middle/__init__.py", "from ..top.roof import roof", "house.middle -> house.top.roof"),
        ("low/stones.py", "def f():\n    from house.top import roof", "house.low.stones -> house.top.roof"),
        (
            "low/stones.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.middle.wall import wall",
            "house.low.stones -> house.middle.wall",
        ),
        ("low/stones.py", "import house", "house.low.stones -> house"),
        ("low/stones.py", "from house.__main__ import main", "house.low.stones -> house.__main__"),
        ("top/roof.py", "from house.__main__ import main", "house.top.roof -> house.__main__"),
        ("shed/tools.py", "", "house.shed.tools is in no room"),
        ("loose.py", "", "house.loose is in no room"),
    ],
)
def test_an_arrow_turned_round_is_found(house, file, text, wrong):
    assert wrong in against_the_order(house(**{file: text}), ["top", "middle", "low"])


@pytest.mark.parametrize(
    ("changes", "circle"),
    [
        ({"low/stones.py": "from house.low import sand"}, {"house.low.stones", "house.low.sand"}),
        (
            {"low/stones.py": "def f():\n    import house.low.clay", "low/clay.py": "from house.low.sand import grain"},
            {"house.low.stones", "house.low.sand", "house.low.clay"},
        ),
        ({"middle/wall.py": "from house.middle import door"}, {"house.middle", "house.middle.wall"}),
    ],
)
def test_a_circle_is_found(house, changes, circle):
    assert circle in circles(house(**changes))
