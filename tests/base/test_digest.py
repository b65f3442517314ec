"""Does the digest change with each thing that determines a value, and with nothing else?"""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import functools
import operator
import re
import subprocess
import sys
import threading
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gdrop_viz.base.digest import Undigestible, digest, file_digest


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: object = None


def generator(draws: int) -> torch.Generator:
    made = torch.Generator().manual_seed(0)
    torch.rand(draws, generator=made)
    return made


def numpy_generator(draws: int) -> np.random.Generator:
    made = np.random.default_rng(0)
    made.random(draws)
    return made


# each pair: two values that differ, made anew at each call
PAIRS = {
    "numbers": lambda: (1, 2),
    "a number and a text": lambda: (1, "1"),
    "a whole number and a float": lambda: (1, 1.0),
    "a truth and a number": lambda: (True, 1),
    "zeros of two signs": lambda: (0.0, -0.0),
    "texts": lambda: ("a", "b"),
    "bytes": lambda: (b"a", b"b"),
    "paths": lambda: (Path("a"), Path("b")),
    "dtypes": lambda: (torch.float32, torch.float16),
    "a bit of a tensor": lambda: (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-45])),
    "the shape of a tensor": lambda: (torch.zeros(2, 3), torch.zeros(3, 2)),
    "the type of a tensor": lambda: (torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.float32)),
    "half precision": lambda: (torch.ones(2, dtype=torch.bfloat16), torch.full((2,), 1.0078125, dtype=torch.bfloat16)),
    "a lazy conjugate": lambda: (torch.tensor([1j]), torch.tensor([1j]).conj()),
    "arrays": lambda: (np.arange(3), np.array([0, 1, 3])),
    "arrays of texts": lambda: (np.array(["a", "b"]), np.array(["a", "c"])),
    "arrays of objects": lambda: (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
    "arrays of dates": lambda: (np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-02"], "M8[D]")),
    "numpy's numbers": lambda: (np.float32(0.5), np.float32(0.25)),
    "numpy's long numbers": lambda: (np.longdouble(1), np.longdouble(2)),
    "lists": lambda: ([1, [2]], [1, [3]]),
    "how lists are nested": lambda: ([[1], 2], [[1, 2]]),
    "mappings": lambda: ({"a": 1}, {"a": 2}),
    "keys": lambda: ({"a": 1}, {"b": 1}),
    "sets": lambda: ({"a", "b"}, {"a", "c"}),
    "ranges": lambda: (range(3), range(4)),
    "queues": lambda: (collections.deque([1]), collections.deque([2])),
    "dataclasses": lambda: (Point(1.0), Point(2.0)),
    "what a dataclass holds": lambda: (Point(1.0, [1]), Point(1.0, [2])),
    "enumerations": lambda: (Colour.RED, Colour.BLUE),
    "objects with slots": lambda: (Slotted(1), Slotted(2)),
    "dates": lambda: (date(2020, 1, 1), date(2020, 1, 2)),
    "decimals": lambda: (Decimal("1.0"), Decimal("1.00")),
    "patterns": lambda: (re.compile("a"), re.compile("b")),
    "the flags of patterns": lambda: (re.compile("a"), re.compile("a", re.I)),
    "tables": lambda: (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})),
    "the columns of tables": lambda: (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]})),
    "texts in series": lambda: (pd.Series(["a", "b"]), pd.Series(["a", "c"])),
    "modules": lambda: (nn.ReLU(), nn.GELU()),
    "the settings of modules": lambda: (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "torch's generators": lambda: (generator(0), generator(1)),
    "numpy's generators": lambda: (numpy_generator(0), numpy_generator(1)),
    "library functions": lambda: (torch.exp, torch.log),
    "functions of numpy": lambda: (np.exp, np.log),
    "methods of a library": lambda: (str.upper, str.lower),
    "bound methods of a library": lambda: ({"a": 1}.get, {"a": 2}.get),
    "item getters": lambda: (operator.itemgetter(1), operator.itemgetter(2)),
    "partial: the arguments": lambda: (functools.partial(max, 1), functools.partial(max, 2)),
    "partial: the keywords": lambda: (functools.partial(sum, start=1), functools.partial(sum, start=2)),
    "bound methods: the object": lambda: (Scale(1.0).loss, Scale(2.0).loss),
    "bound methods: the method": lambda: (Scale(1.0).loss, Scale(1.0).other),
}


class Scale:
    def __init__(self, by):
        self.by = by

    def loss(self, outputs):
        return self.by * outputs

    def other(self, outputs):
        return outputs


@pytest.mark.parametrize("name", PAIRS)
def test_it_changes_with_the_value_and_only_then(name):
    (one, other), (again, _) = PAIRS[name](), PAIRS[name]()
    assert digest(one) == digest(again)
    assert digest(one) != digest(other)
    assert digest([one, one]) == digest([again, one])  # whether two places share an object says nothing
    assert digest({"a": {"b": one}}) != digest({"a": {"b": other}})


def test_order_counts_in_sequences_only():
    assert digest([1, 2]) != digest([2, 1])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(1, 2) != digest(2, 1)


def test_how_a_tensor_lies_in_memory_says_nothing():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert digest(tensor.t().contiguous().t()) == digest(tensor) == digest(nn.Parameter(tensor))


# --- code -------------------------------------------------------------------------------------------------------------

CODE = """
import functools
from dataclasses import dataclass
scale = 2.0
table = {"a": 1.0}
def helper(x):
    return x + 1
def deeper(x):
    return helper(x)
def with_global(x):
    return scale * x
def with_table(x):
    return table["a"] * x
def with_helper(x):
    return deeper(x)
def inside_a_lambda(x):
    return (lambda y: scale * y)(x)
def made(by):
    def loss(x, power=1, *, bias=0):
        return by * x**power + bias
    return loss
closure = made(3)
@functools.lru_cache
def cached(x):
    return helper(x)
@functools.wraps(len)
def wrapped(x):
    return helper(x)
class Base:
    factor = 1.0
    def inherited(self, x):
        return helper(x)
class Loss(Base):
    @staticmethod
    def static(x):
        return x
    @property
    def size(self):
        return 4
    def __call__(self, x):
        return self.factor * x
@dataclass(frozen=True)
class Frozen:
    by: float = 1.0
    def __call__(self, x):
        return self.by * helper(x)
instance, frozen = Loss(), Frozen()
bound = instance.inherited
partial = functools.partial(with_helper)
def recursive(n):
    return 1 if n == 0 else n * recursive(n - 1)
def even(n):
    return n == 0 or odd(n - 1)
def odd(n):
    return n != 0 and even(n - 1)
def among(x):
    return x in {"a", "b", "c"}
def tries(x):
    try:
        return helper(x)
    except ValueError:
        return 0
"""


def of(name: str, code: str = CODE) -> str:
    """The digest of a name in the namespace that this code makes, as in a notebook."""
    space = {"__name__": "__main__"}
    exec(code, space)
    return digest(space[name])


CHANGES = {
    "its own code": ("with_global", "scale * x", "scale + x"),
    "a constant": ("helper", "x + 1", "x + 2"),
    "a global": ("with_global", "scale = 2.0", "scale = 3.0"),
    "an entry of a global table": ("with_table", '{"a": 1.0}', '{"a": 2.0}'),
    "a helper of a helper": ("with_helper", "x + 1", "x + 2"),
    "a global read in a lambda inside": ("inside_a_lambda", "scale = 2.0", "scale = 3.0"),
    "the closure": ("closure", "made(3)", "made(4)"),
    "a default": ("closure", "power=1", "power=2"),
    "a keyword's default": ("closure", "bias=0", "bias=1"),
    "what a cached function calls": ("cached", "x + 1", "x + 2"),
    "what a function under another's name calls": ("wrapped", "x + 1", "x + 2"),
    "an attribute of the base class": ("instance", "factor = 1.0", "factor = 2.0"),
    "a method of the base class": (
        "instance",
        "inherited(self, x):\n        return helper(x)",
        "inherited(self, x):\n        return x",
    ),
    "a static method": ("instance", "        return x\n    @property", "        return -x\n    @property"),
    "a property": ("instance", "return 4", "return 5"),
    "a method's own code": ("instance", "self.factor * x", "self.factor + x"),
    "what a dataclass's method calls": ("frozen", "x + 1", "x + 2"),
    "the default of a dataclass": ("frozen", "by: float = 1.0", "by: float = 2.0"),
    "what a bound method calls": ("bound", "x + 1", "x + 2"),
    "what a partial calls": ("partial", "x + 1", "x + 2"),
    "a recursive function": ("recursive", "n * rec", "n + rec"),
    "two functions that call each other": ("even", "n != 0 and", "n != 1 and"),
    "a set of constants": ("among", '"c"}', '"d"}'),
    "what is caught": ("tries", "ValueError", "TypeError"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_code_changes_with(what):
    name, before, after = CHANGES[what]
    assert CODE.count(before) == 1, before
    assert of(name) == of(name, "# another line\n\n" + CODE)
    assert of(name) != of(name, CODE.replace(before, after))


def test_what_a_function_does_not_read_says_nothing():
    assert of("helper") == of("helper", CODE.replace("scale = 2.0", "scale = 3.0"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Modules of the caller's own, that import each other; `project(name=text)` writes and loads them anew."""
    monkeypatch.syspath_prepend(tmp_path)
    names: set[str] = set()

    def write(**texts: str) -> None:
        names.update(texts)
        for name in names:
            sys.modules.pop(name, None)
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)

    # compiled files are told apart by whole seconds
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "use",
    [
        "import own_one\ndef loss(x): return own_one.f(x)",
        "from own_one import f\ndef loss(x): return f(x)",
        "def loss(x):\n    import own_one\n    return own_one.f(x)",
        "def loss(x):\n    from own_one import f\n    return f(x)",
        "import own_one as o\nclass C:\n    def __call__(self, x): return o.f(x)\nloss = C()",
    ],
)
def test_helpers_in_modules_of_ones_own(project, use):
    two = "def g(x): return x + {}\nunread = {}\n"
    found = []
    for numbers in ((1, 1), (1, 2), (2, 1)):
        project(own_one="import own_two\ndef f(x): return own_two.g(x)\n", own_two=two.format(*numbers))
        found.append(of("loss", use))
    assert found[0] == found[1] != found[2]


def test_what_a_library_defines_counts_by_its_name():
    assert digest(nn.functional.cross_entropy) == digest(nn.functional.cross_entropy)
    assert of("f", "import torch\ndef f(x): return torch.exp(x)") != of(
        "f", "import torch\ndef f(x): return torch.log(x)"
    )


def test_it_is_the_same_in_another_process():
    script = f"space = {{'__name__': '__main__'}}\nexec({CODE!r}, space)\nfrom gdrop_viz.base.digest import digest\n"
    script += "print(digest({name: space[name] for name in ('among', 'even', 'instance', 'frozen', 'cached')}))"
    # the order of sets of texts is another one in each
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


def test_what_cannot_be_read_is_refused(tmp_path):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    lock = threading.Lock()
    for value in (lock, {"a": [lock]}, lambda: lock, (n for n in ()), torch.empty(2, device="meta"), deep):
        with pytest.raises(Undigestible, match=r"expected .* whose content can be read, got"):
            digest(value)
    with (tmp_path / "f").open("w") as file, pytest.raises(Undigestible, match="TextIOWrapper"):
        digest(file)
    while deep:  # taken apart from outside: freeing it whole would recurse as deeply
        deep = deep.pop()


def test_reading_leaves_the_value_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    before = copy.deepcopy(module.state_dict())
    random = generator(0)
    digest(module, random)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(random.get_state(), generator(0).get_state())


def test_of_a_file(tmp_path):
    import hashlib

    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
