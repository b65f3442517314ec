"""Can the checksum of a file get lost, so that a changed number passes? Not by a change of its own name either."""

from __future__ import annotations

import json

import pytest
import torch

from gdrop_viz.base.saved import DamagedFile, load_json, load_tensors, save_json, save_tensors

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


def test_without_one_it_is_a_file_from_before(note):
    content = json.loads(note.read_text())
    del content["sha256"]
    note.write_text(json.dumps(content | {"value": 0.6}))
    assert load_json(note, **KIND) == {"value": 0.6}
