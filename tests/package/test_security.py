"""Files, names and servers that would let somebody in: no code in data, no path outside, only loopback."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import h5py
import numpy as np
import psutil  # the notebook kernel needs it too
import pytest

import gdrop_viz as gv
from gdrop_viz.landscape.surface import surface_path
from gdrop_viz.landscape.surface_file import read_fingerprint

ROOT = Path(gv.__file__).resolve().parents[1]
SOURCES = sorted(
    path for part in ("gdrop_viz", "data", "benchmarks", "notebooks") for path in (ROOT / part).rglob("*.py")
)
# work is sent to this machine's own worker processes in memory; nothing is read from a file
PICKLES_IN_MEMORY = {
    "gdrop_viz/base/parallel.py": {"Pickler", "loads"},
}
NEVER = {"eval", "exec", "extractall", "system", "popen"}


def calls_in(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def unsafe_calls(path: Path) -> list[str]:
    found = []
    allowed = PICKLES_IN_MEMORY.get(path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else "", set())
    for name, keywords in calls_in(path):
        base, _, last = name.rpartition(".")
        if base in ("pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve") and last not in allowed:
            found.append(name)
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"{name} without weights_only=True")
        if keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True":
            found.append(f"{name}(allow_pickle or shell)")
        if keywords.get("trust_remote_code") == "True":
            found.append(f"{name}(trust_remote_code=True)")
        if name in NEVER or (
            last in ("extractall", "system", "popen") and base in ("os", "tarfile", "zipfile", "archive")
        ):
            found.append(name)
        if name == "pd.read_pickle" or name == "yaml.load":
            found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_of_data_can_run_code(path):
    assert unsafe_calls(path) == []


@pytest.mark.parametrize(
    "line",
    ["pickle.load(f)", "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)",
     "f(x, trust_remote_code=True)", "eval(text)", "pd.read_pickle(p)"],
)  # fmt: skip
def test_the_search_would_find_it(tmp_path, line):
    (tmp_path / "bad.py").write_text(line)
    assert unsafe_calls(tmp_path / "bad.py")


def test_code_of_a_repository_runs_only_when_asked():
    import inspect

    assert inspect.signature(gv.load_pretrained).parameters["trust_remote_code"].default is False


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_in_a_model_folder_is_not_run(tiny_lm, tmp_path):
    folder = tiny_lm.save(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "checksums.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "hacked")))
    with pytest.raises((RuntimeError, ValueError)):
        gv.load_pretrained(folder)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("label", ["../../etc/passwd", "..", "/etc/passwd", "a\0b", "C:\\x", "~root", "x" * 20])
def test_a_label_does_not_lead_out_of_its_folder(tmp_path, label):
    path = surface_path(tmp_path, label)
    assert path.resolve().parent == tmp_path.resolve()
    assert re.fullmatch(r"[\w.-]+", path.name)


def test_a_runs_name_does_not_lead_out_of_its_folder(tmp_path):
    from gdrop_viz.finetuning.store import RunStore

    store = RunStore.open(tmp_path / "runs")
    rows = [{"epoch": 1, "split": "validation", "metric": "accuracy", "value": 0.5, "seconds": 1.0}]
    store.write({"arm": "../../out"}, rows, about={"arm": "../../out", "task": "/etc", "model": "..", "metric": "x"})
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["runs"]


POINTERS = """external link, external storage, soft link, virtual, external link in a group, soft link in a group,
virtual in a group""".replace("\n", " ").split(", ")


@pytest.mark.parametrize("trick", POINTERS)
def test_a_surface_does_not_read_other_files(tmp_path, trick):
    """An HDF5 file may point at any other file of the machine; such a one is refused."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["train_loss"] = np.arange(3.0)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["xcoordinates"] = np.arange(3.0)
        elsewhere = h5py.VirtualLayout((3,), "f8")
        elsewhere[:] = h5py.VirtualSource(str(secret), "train_loss", (3,))
        if trick == "external link":
            file["train_loss"] = h5py.ExternalLink(str(secret), "train_loss")
        elif trick == "soft link":
            file["train_loss"] = h5py.SoftLink("/xcoordinates")
        elif trick == "external storage":
            file.create_dataset("train_loss", (3,), "f8", external=[(str(secret), 0, 24)])
        elif trick == "virtual":
            file.create_virtual_dataset("train_loss", elsewhere)
        else:  # what lies at the top is sound
            file["train_loss"] = np.arange(3.0)
            inner = file.create_group("metrics/deep")
            if trick == "virtual in a group":
                inner.create_virtual_dataset("accuracy", elsewhere)
            elif trick == "soft link in a group":
                inner["accuracy"] = h5py.SoftLink("/train_loss")
            else:
                inner["accuracy"] = h5py.ExternalLink(str(secret), "train_loss")
    for read in (gv.Surface.load, read_fingerprint):
        with pytest.raises(ValueError, match=r"s\.h5.*points"):
            read(tmp_path / "s.h5")


def test_a_run_does_not_take_up_another_files_fingerprint(tiny_bert, tiny_batches, tmp_path):
    """It is looked at before the surface is; nothing of that other file may be told, or written to."""
    direction, path = gv.random_direction(tiny_bert), tmp_path / "s.h5"
    gv.loss_surface(tiny_bert, tiny_batches, direction, points=3, path=tmp_path / "other.h5", progress=False)
    with h5py.File(path, "w") as file:
        file["fingerprint"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "fingerprint")
    before = (tmp_path / "other.h5").read_bytes()
    with pytest.raises(ValueError, match=r"s\.h5.*points at other data with 'fingerprint'"):
        gv.loss_surface(tiny_bert, tiny_batches, direction, points=3, path=path, progress=False)
    assert (tmp_path / "other.h5").read_bytes() == before


def test_a_surface_whose_group_holds_itself_is_refused(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["xcoordinates"] = file["train_loss"] = np.arange(3.0)
        inner = file.create_group("metrics")
        inner["again"] = inner  # a hard link, as sound as any
    with pytest.raises(ValueError, match=r"s\.h5") as error:
        gv.Surface.load(tmp_path / "s.h5")
    assert "\n" not in str(error.value)


def test_make_lab_stays_on_this_machine_and_asks_for_its_token():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    lab = recipe[recipe.index("\nlab:") :].split("\n\n")[0]
    assert "--ip=localhost" in lab
    for weakened in ("token=", "password=", "0.0.0.0", "--ip=*", "allow_origin", "disable_check_xsrf"):
        assert weakened not in lab


@pytest.fixture
def started_lab(tmp_path):
    """JupyterLab as `make lab` starts it, on a free port, without a browser and with nobody's settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "-o", "stamp", "STAMP=stamp", f"PORT={port}", "lab"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (command,) = [line for line in recipe.splitlines() if "jupyter" in line]
    folder, words = re.fullmatch(r"cd (\S+) && (.*)", command).groups()
    program, *options = shlex.split(words)
    assert program.endswith("/bin/jupyter")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "JPY_"))}
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", *options[:-1], "--no-browser"], cwd=ROOT / folder,
            env={**inherited, **own, "IPYTHONDIR": str(tmp_path / "ipython")}, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not ((found := list((tmp_path / "RUNTIME").glob("jpserver-*.json"))) and _answers(port)):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail((tmp_path / "log").read_text())
            time.sleep(0.1)
        yield json.loads(found[0].read_text()), port
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _status(url: str, **headers: str) -> int:
    """What a stranger is answered, redirections to the login page not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    try:
        with urllib.request.build_opener(Stay).open(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_started_lab_listens_on_loopback_and_lets_nobody_in_without_its_token(started_lab):
    facts, port = started_lab
    assert facts["port"] == port  # not another one, had this been taken
    address, token = f"http://127.0.0.1:{port}", facts["token"]
    assert _status(address + "/lab") == 302  # to the login page
    connections = psutil.Process(facts["pid"]).net_connections("inet")
    listening = {one.laddr.ip for one in connections if one.status == "LISTEN"}
    assert listening
    assert listening <= {"127.0.0.1", "::1"}
    assert len(token) >= 32
    for place in ("/api/contents", "/api/kernels", "/api/status", "/files/00_start_here.ipynb"):
        assert _status(address + place) in (302, 403), place
        assert _status(address + place, Authorization="token wrong") in (302, 403), place
    for place in ("/api/contents", "/api/kernels"):
        assert _status(address + place, Authorization=f"token {token}") == 200
    # a page of another site that knows the port but not the token, by the name that it gave this machine
    assert _status(address + "/api/contents", Host="evil.example", Authorization=f"token {token}") == 403


def test_every_requirement_is_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][^ ;]*(; python_version .*)?", line) for line in wanted)
