"""Changes of the whole process (environment, dtype, threads, generators, folder): in the few files that may."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gdrop_viz as gv

PACKAGE = Path(gv.__file__).parent
# what changes the whole process, and the only files that may do it: each gives back what was there
SETTERS = {
    "set_default_dtype": {"base/state.py"},
    "set_default_device": set(),
    "set_default_tensor_type": set(),
    "set_num_threads": {"base/state.py"},
    "set_num_interop_threads": set(),
    "use_deterministic_algorithms": {"base/state.py"},
    "set_float32_matmul_precision": set(),
    "set_fastpath_enabled": {"curvature/differentiation.py"},
    "manual_seed": {"base/state.py", "finetuning/train.py"},
    "chdir": set(),
    "putenv": set(),
    "unsetenv": set(),
}


def setters_in(source: str) -> set[str]:
    """Which of the above, and of the ways to change the environment, are in a source text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            if owner == "os.environ" and name in ("update", "setdefault", "pop", "clear", "popitem"):
                found.add("environ")
            # a Generator of one's own is nobody else's
            if name in SETTERS and not (name == "manual_seed" and "Generator" in owner):
                found.add(name)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found |= {"environ"} if ast.unparse(node.value) == "os.environ" else set()
    return found


def test_nothing_else_in_the_package_changes_the_process():
    allowed = SETTERS | {"environ": {"base/state.py"}}
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        if where.startswith("data/"):  # scripts that rebuild the data, processes of their own
            continue
        wrong = {name for name in setters_in(path.read_text(encoding="utf-8")) if where not in allowed[name]}
        assert not wrong, where


@pytest.mark.parametrize(
    "line",
    ["torch.set_default_dtype(d)", "os.environ['A'] = 'b'", "del os.environ['A']", "os.environ.setdefault('A', 'b')",
     "torch.set_num_threads(1)", "torch.manual_seed(0)", "os.chdir('/')"],
)  # fmt: skip
def test_the_search_would_find_it(line):
    assert setters_in(line)
