"""A process of its own that loads from the hub: its environment is read once, when the libraries are imported.

Reads one JSON request a line, {"call": "model" | "texts" | "task", "name": ..., "settings": {...}, "token": ...}, and
answers with one JSON line: what was loaded, or the error.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def model(name: str, **settings: Any) -> dict[str, Any]:
    import gdrop_viz as gv
    from gdrop_viz.models.digest import model_digest

    lm = gv.load_pretrained(name, **settings)
    return {"objective": lm.objective, "class": type(lm.model).__name__, "weights": model_digest(lm.model)}


def texts(name: str, **settings: Any) -> dict[str, Any]:
    import gdrop_viz as gv
    from tests.conftest import random_bert, word_tokenizer

    lm = gv.Pretrained(random_bert(), word_tokenizer(), objective="mlm")
    batches = gv.pretraining_batches(lm, name, n_sequences=None, max_length=16, progress=False, **settings)
    return {"texts": sorted(batches.texts)}


def task(name: str, **settings: Any) -> dict[str, Any]:
    import gdrop_viz as gv

    loaded = gv.load_task(name, **settings)
    return {"rows": {split: len(rows) for split, rows in loaded.splits.items()}, "text": loaded.train[0]["text"]}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    os.environ.pop("HF_TOKEN", None)
    if request.get("token"):
        os.environ["HF_TOKEN"] = request["token"]
    calls = {"model": model, "texts": texts, "task": task}
    try:
        return calls[request["call"]](request["name"], **request.get("settings", {}))
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)
