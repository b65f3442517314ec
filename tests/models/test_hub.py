"""Models and data sets over real HTTP: they come whole or not at all, and every failure names its remedy.

A small hub on loopback (tests/fake_hub.py) serves the real clients, which run in processes of their own with a fresh
cache: one online, and later one offline with what the first has left in the cache.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gdrop_viz.text.corruption import MIN_TOKENS
from tests.conftest import random_bert, sentences, word_tokenizer
from tests.fake_hub import commit_of, serving

ROOT = Path(__file__).parents[2]


class Client:
    """A process that loads from the hub at `url`."""

    def __init__(self, url: str, cache: Path, *, offline: bool = False) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        settings = {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": str(int(offline)), "NO_PROXY": "*"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**clean, **settings, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        )

    def ask(self, call: str, name: str, *, token: str = "", **settings) -> dict:
        self.process.stdin.write(json.dumps({"call": call, "name": name, "token": token, "settings": settings}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("hub-cache")


@pytest.fixture(scope="module")
def online(hub, cache):
    with Client(hub.url, cache) as client:
        yield client


@pytest.fixture(scope="module")
def offline(hub, cache):
    with Client(hub.url, cache, offline=True) as client:
        yield client


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> list[dict[str, bytes]]:
    """The files of two checkpoints that differ in their weights."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"weights-{seed}")
        random_bert(seed).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        folders.append({file.name: file.read_bytes() for file in folder.iterdir()})
    return folders


def weights(seed: int) -> str:
    from gdrop_viz.models.digest import model_digest

    return model_digest(random_bert(seed))


def table(rows: int, first: int = 0, *, labels: bool = False) -> bytes:
    """A parquet file of made-up sentences."""
    from datasets import Dataset

    texts = sentences(first + rows)[first:]
    columns = {"sentence1": texts, "sentence2": texts[::-1], "label": [i % 2 for i in range(rows)]}
    buffer = io.BytesIO()
    Dataset.from_dict(columns if labels else {"text": texts}).to_parquet(buffer)
    return buffer.getvalue()


def text_files(first: int = 0) -> dict[str, bytes]:
    return {"data/train-00000-of-00001.parquet": table(12, first), "README.md": b"---\nlicense: mit\n---\n"}


def kept(first: int = 0) -> dict[str, list[str]]:
    """The texts of `text_files` that are long enough to be masked."""
    return {"texts": sorted(text for text in sentences(first + 12)[first:] if len(text.split()) >= MIN_TOKENS)}


def assert_one_line(answer: dict, kind: str, *parts: str) -> None:
    assert answer.get("error") == kind, answer
    assert "\n" not in answer["message"]
    for part in parts:
        assert part in answer["message"]


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_model_comes_whole_and_is_reused_offline(hub, online, offline, checkpoints):
    hub.add("models", "someone/plain", checkpoints[0])
    answer = online.ask("model", "someone/plain")
    assert answer == {"objective": "mlm", "class": "BertForMaskedLM", "weights": weights(0)}
    before = len([1 for method, path in hub.requests if method == "GET" and "model.safetensors" in path])
    assert online.ask("model", "someone/plain") == answer
    after = len([1 for method, path in hub.requests if method == "GET" and "model.safetensors" in path])
    assert before == after == 1  # from the cache
    count = len(hub.requests)
    assert offline.ask("model", "someone/plain") == answer
    refusal = offline.ask("model", "someone/else")
    assert_one_line(refusal, "RuntimeError", "not in the local cache", "unset HF_HUB_OFFLINE", "bert-mini")
    assert len(hub.requests) == count


def test_a_model_is_reused_when_the_hub_is_away(hub, online, cache, checkpoints):
    hub.add("models", "someone/kept", checkpoints[0])
    assert online.ask("model", "someone/kept")["weights"] == weights(0)
    with Client("http://127.0.0.1:9", cache) as client:  # nobody listens there
        assert client.ask("model", "someone/kept")["weights"] == weights(0)
        refusal = client.ask("model", "someone/unknown")
        assert_one_line(refusal, "RuntimeError", "could not be reached: check the network", "bert-mini")


def test_revisions_are_pinned(hub, online, checkpoints):
    hub.add("models", "someone/moving", checkpoints[1], first=checkpoints[0])
    assert online.ask("model", "someone/moving")["weights"] == weights(1)
    assert online.ask("model", "someone/moving", revision="first")["weights"] == weights(0)
    commit = commit_of(checkpoints[0])
    assert online.ask("model", "someone/moving", revision=commit)["weights"] == weights(0)
    assert_one_line(online.ask("model", "someone/moving", revision="gone"), "ValueError", "has no revision 'gone'")


def test_gated_and_missing_models(hub, online, checkpoints):
    hub.add("models", "meta/gated", checkpoints[0], gated=True)
    refusal = online.ask("model", "meta/gated")
    assert_one_line(refusal, "RuntimeError", "is gated: ask for access", "hf auth login", "bert-mini")
    assert online.ask("model", "meta/gated", token="hf_" + "x" * 34)["weights"] == weights(0)
    refusal = online.ask("model", "nobody/nothing")
    assert_one_line(refusal, "FileNotFoundError", "no model 'nobody/nothing' was found", "bert-mini")
    hub.add("models", "someone/no-model", {"README.md": b"only words"})
    assert_one_line(online.ask("model", "someone/no-model"), "ValueError", "has no config.json")


def test_a_broken_connection_is_resumed(hub, online, checkpoints):
    hub.add("models", "someone/cut", checkpoints[0])
    hub.spoil("someone/cut/resolve/main/model.safetensors", "cut", times=2)
    hub.spoil(f"someone/cut/resolve/{commit_of(checkpoints[0])}/model.safetensors", "cut", times=2)
    assert online.ask("model", "someone/cut")["weights"] == weights(0)
    gets = [path for method, path in hub.requests if method == "GET" and "someone/cut" in path and "model." in path]
    assert len(gets) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("down", "could not be reached: check the network"),
        ("short", "is cut off or damaged"),
    ],
)
def test_what_does_not_come_whole_is_not_kept_and_comes_at_the_next_try(hub, online, checkpoints, fault, message):
    name = f"someone/{fault}"
    hub.add("models", name, checkpoints[0])
    if fault != "down":  # the client tries for five seconds each time
        hub.spoil(f"{name}/resolve", fault)
        assert_one_line(online.ask("model", name), "RuntimeError", message)
        hub.faults.clear()
    hub.spoil("model.safetensors", fault)
    assert_one_line(online.ask("model", name), "RuntimeError", message)
    hub.faults.clear()
    assert online.ask("model", name)["weights"] == weights(0)


CODE = b"""
open({marker!r}, "a").write("it ran")
from transformers import BertConfig, BertForMaskedLM
class OwnConfig(BertConfig):
    model_type = "own-kind"
class OwnForMaskedLM(BertForMaskedLM):
    config_class = OwnConfig
"""


def test_code_of_a_repository_runs_only_if_the_caller_says_so(hub, online, checkpoints, tmp_path):
    marker = tmp_path / "ran"
    config = json.loads(checkpoints[0]["config.json"])
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.OwnForMaskedLM"}
    config |= {"model_type": "own-kind", "architectures": ["OwnForMaskedLM"], "auto_map": classes}
    code = CODE.decode().format(marker=str(marker)).encode()
    hub.add("models", "someone/own", {**checkpoints[0], "config.json": json.dumps(config).encode(), "own.py": code})
    refusal = online.ask("model", "someone/own")
    assert_one_line(refusal, "ValueError", "needs code of its own", "trust_remote_code=True")
    assert not marker.exists()
    answer = online.ask("model", "someone/own", trust_remote_code=True)
    assert (answer.get("class"), marker.exists()) == ("OwnForMaskedLM", True), answer


# -- data sets ---------------------------------------------------------------------------------------------------------


def test_texts_come_whole_and_are_reused_offline(hub, online, offline):
    hub.add("datasets", "someone/texts", text_files())
    files = text_files(4)
    del files["README.md"]
    hub.add("datasets", "someone/without-readme", files)
    answer = online.ask("texts", "someone/texts")
    assert answer == kept()
    assert online.ask("texts", "someone/without-readme") == kept(4)
    assert offline.ask("texts", "someone/texts") == answer
    assert offline.ask("texts", "someone/without-readme") == kept(4)
    refusal = offline.ask("texts", "someone/other")
    assert_one_line(refusal, "RuntimeError", "not in the local cache", "unset HF_HUB_OFFLINE")


def test_revisions_of_data_sets_are_pinned(hub, online):
    hub.add("datasets", "someone/growing", text_files(5), first=text_files(0))
    assert online.ask("texts", "someone/growing") == kept(5)
    assert online.ask("texts", "someone/growing", revision="first") == kept()
    refusal = online.ask("texts", "someone/growing", revision="gone")
    assert_one_line(refusal, "ValueError", "has no revision 'gone'")


def test_gated_and_missing_data_sets(hub, online):
    hub.add("datasets", "someone/secret", text_files(), gated=True)
    assert_one_line(online.ask("texts", "someone/secret"), "RuntimeError", "is gated", "hf auth login")
    assert online.ask("texts", "someone/secret", token="hf_" + "x" * 34) == kept()
    refusal = online.ask("texts", "nobody/nothing")
    assert_one_line(refusal, "FileNotFoundError", "no data set 'nobody/nothing' was found", "bundled corpus")


def test_a_table_that_is_cut_off_is_not_kept_either(hub, online):
    name = "someone/short-table"
    hub.add("datasets", name, text_files())
    hub.spoil(f"{name}/resolve", "short")
    assert_one_line(online.ask("texts", name), "RuntimeError", "is cut off or damaged")
    hub.faults.clear()
    assert online.ask("texts", name) == kept()


def test_a_data_set_with_code_of_its_own_runs_nothing(hub, online, tmp_path):
    marker = tmp_path / "ran"
    hub.add("datasets", "someone/script", {"script.py": f"open({str(marker)!r}, 'w')\n".encode()})
    assert "error" in online.ask("texts", "someone/script")
    assert not marker.exists()


def test_a_labelled_task(hub, online, checkpoints):
    parquet = {"rte/train-00000-of-00001.parquet": table(8, labels=True)}
    parquet["rte/validation-00000-of-00001.parquet"] = table(4, labels=True)
    card = b"---\nconfigs:\n- config_name: rte\n  data_files:\n  - split: train\n    path: rte/train-*\n"
    card += b"  - split: validation\n    path: rte/validation-*\n---\n"
    hub.add("datasets", "mirror/glue", {**parquet, "README.md": card})
    answer = online.ask("task", "glue/rte", source="mirror/glue", revision="main")
    assert answer == {"rows": {"train": 8, "validation": 4}, "text": sentences(1)[0]}
