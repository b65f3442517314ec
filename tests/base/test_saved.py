"""Do results come back as they were, and is a file refused whenever a number in it has changed?"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gdrop_viz.base.saved import DamagedFile, Saved, load_json, load_tensors, save_json, save_tensors

KIND = {"kind": "a note", "names": ("value",), "form": "note 1", "remedy": "write it again"}


@pytest.fixture
def note(tmp_path):
    save_json(tmp_path / "note.json", {"format": "note 1", "value": 0.5})
    return tmp_path / "note.json"


@pytest.fixture
def weights(tmp_path):
    save_tensors(tmp_path / "w.safetensors", "mine", {"a": 1}, {"w": torch.ones(2)})
    return tmp_path / "w.safetensors"


def test_what_was_written_is_read(note, weights):
    assert load_json(note, **KIND) == {"value": 0.5}
    header, tensors = load_tensors(weights, "mine", remedy="")
    assert (header, tensors["w"].tolist()) == ({"a": 1}, [1.0, 1.0])


def test_a_changed_number(note, weights):
    note.write_text(note.read_text().replace("0.5", "0.6"))
    with pytest.raises(DamagedFile, match=r"note\.json has changed since it was written .*; write it again"):
        load_json(note, **KIND)
    one, two = (torch.tensor([value]).numpy().tobytes() for value in (1.0, 2.0))
    weights.write_bytes(weights.read_bytes().replace(one, two))
    with pytest.raises(DamagedFile, match=r"w\.safetensors .*its checksum does not fit its content"):
        load_tensors(weights, "mine", remedy="")


def test_a_changed_number_under_a_checksum_of_another_name(note, weights):
    note.write_text(note.read_text().replace("0.5", "0.6").replace('"sha256"', '"sha257"'))
    with pytest.raises(DamagedFile, match=r"note\.json .*missing or unknown: sha257"):
        load_json(note, **KIND)
    one, two = (torch.tensor([value]).numpy().tobytes() for value in (1.0, 2.0))
    weights.write_bytes(weights.read_bytes().replace(one, two).replace(b"sha256", b"sha257"))
    with pytest.raises(DamagedFile, match=r"w\.safetensors .*its header names something unknown"):
        load_tensors(weights, "mine", remedy="")


def test_a_person_may_change_a_text_and_says_so_by_deleting_its_checksum(note, weights):
    content = json.loads(note.read_text())
    del content["sha256"]
    note.write_text(json.dumps(content | {"value": 0.6}))
    assert load_json(note, **KIND) == {"value": 0.6}


def test_tensors_without_a_checksum(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "w", metadata={"mine": "{}"})
    with pytest.raises(DamagedFile, match="lacks its checksum"):
        load_tensors(tmp_path / "w", "mine", remedy="")
    save_file({"w": torch.ones(2)}, tmp_path / "other")  # of another program: the caller says what it is not
    assert load_tensors(tmp_path / "other", "mine", remedy="") == ({}, {})


# --- result classes ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Part(Saved):
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Everything(Saved):
    content: Any
    label: str = "mine"

    def to_frame(self):
        return pd.DataFrame({"<a>": [1.23456789, 2.0]})


WHOLE = np.arange(6.0).reshape(2, 3)
CONTENTS = {
    "a tensor": torch.arange(3),
    "half precision": torch.ones(2, dtype=torch.bfloat16),
    "no dimension": torch.tensor(2.5),
    "no element": torch.zeros(0, 3),
    "an array": WHOLE,
    "an array that runs backwards": WHOLE[::-1, ::2],
    "an array of truths": np.array([True, False]),
    "an array without dimension": np.array(3.0),
    "numbers": (1, 2.5, float("inf"), True, None, "text"),
    "numpy's numbers": (np.float64(0.1), np.int64(3)),
    "lists in tuples": ([1, 2], (3, [4])),
    "mappings": {"a": 1, "b": {"c": WHOLE}},
    "keys of other kinds": {1: "one", (0, 1): "two", None: "three"},
    "names that look like paths": {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}},
    "other results": (Part(WHOLE), {"x": Part(WHOLE + 1)}),
    "one tensor twice": dict.fromkeys("ab", torch.ones(2)),
    "views of one tensor": [torch.arange(6.0)[:4], torch.arange(6.0).reshape(2, 3).t()],
    "nothing": ((), [], {}),
}


def same(a: Any, b: Any) -> bool:
    """Whether two contents agree in kinds, types, shapes and values."""
    if isinstance(a, np.generic):
        a = a.item()
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Part):
        return same(a.values, b.values)
    return a == b


@pytest.mark.parametrize("kind", CONTENTS)
def test_each_kind_of_content_comes_back(tmp_path, kind):
    Everything(CONTENTS[kind], "a label").save(tmp_path / "e")
    again = Everything.load(tmp_path / "e")
    assert same(CONTENTS[kind], again.content)
    assert again.label == "a label"


def test_what_cannot_be_kept_is_named_and_leaves_the_old_file(tmp_path):
    Everything(1).save(tmp_path / "e")
    for content, match in ((np.array(["a"]), "arrays of numbers"), (object(), "JSON serializable")):
        with pytest.raises(TypeError, match=match):
            Everything(content).save(tmp_path / "e")
    assert Everything.load(tmp_path / "e").content == 1
    assert os.listdir(tmp_path) == ["e"]


def test_another_kind_of_file(tmp_path, weights):
    Part(WHOLE).save(tmp_path / "part")
    with pytest.raises(DamagedFile, match=r"expected a file written by Everything\.save, got .*something else"):
        Everything.load(tmp_path / "part")
    with pytest.raises(DamagedFile, match="something else"):
        Everything.load(weights)
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        Everything.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="which is a folder"):
        Everything.load(tmp_path)


def test_a_file_of_fields_that_the_class_has_not(tmp_path):
    fields = {"object": "Part", "fields": {"values": 1, "more": 2}}
    save_tensors(tmp_path / "p", "gdrop_viz.Part", fields, {})
    with pytest.raises(DamagedFile, match="more"):
        Part.load(tmp_path / "p")
    for content in ({"object": "Nothing", "fields": {}}, {"object": "Part"}, {"tensor": "none"}):
        save_tensors(tmp_path / "p", "gdrop_viz.Part", content, {})
        with pytest.raises(DamagedFile, match="make it again"):
            Part.load(tmp_path / "p")


def test_how_it_is_shown():
    shown = Everything(1, "<b>")
    assert repr(shown) == "Everything(content=1, label='<b>')"
    assert shown._repr_html_().startswith("<p>Everything(content=1, label=&#x27;&lt;b&gt;&#x27;)</p><table")
    assert "1.235" in shown._repr_html_()
    assert Part(np.ones(1))._repr_html_() == "<p>Part(values=array([1.]))</p>"


@pytest.mark.parametrize("load", [lambda path: load_json(path, **KIND), Part.load])
def test_what_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, load):
    """Stood for by the system's answer: an administrator may read everything."""
    Part(WHOLE).save(tmp_path / "p")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(PermissionError, match=r"could not read .*p' \(Permission denied\); nothing in it is touched"):
        load(tmp_path / "p")
