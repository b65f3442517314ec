"""The landscape study: complete, resumable, and with the sentences that its numbers carry."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from gdrop_viz.base.saved import DamagedFile
from gdrop_viz.curvature import sequence_curvature
from gdrop_viz.fisher import fisher_information
from gdrop_viz.models.bundled import data_folder
from gdrop_viz.studies import LandscapeFindings, measure_landscape
from gdrop_viz.studies import landscape as measuring
from gdrop_viz.studies.landscape_findings import save_findings
from tests.conftest import sentences

SETTINGS = dict(n_fisher=16, n_sequences=6, max_length=12, n_directions=2, n_curvature=8, n_probes=2, progress=False)


@pytest.fixture
def text(monkeypatch, tmp_path):
    """Instead of the bundled corpus."""
    from gdrop_viz.text import batches as corpora

    real = corpora.pretraining_batches
    monkeypatch.setattr(corpora, "pretraining_batches", lambda lm, **settings: real(lm, sentences(60), **settings))
    return lambda lm, **settings: real(lm, sentences(60), progress=False, **settings)


def test_a_stopped_measurement_goes_on_and_is_the_same(tiny_lm, text, tmp_path, monkeypatch):
    whole = measure_landscape(tiny_lm, tmp_path / "whole", work=tmp_path / "a", **SETTINGS)
    settings = dict(work=tmp_path / "b", **SETTINGS)
    real, calls = measuring.loss_surface, []

    def loss_surface(*arguments, **keywords):
        calls.append(keywords["label"])
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(measuring, "loss_surface", loss_surface)
    with pytest.raises(KeyboardInterrupt):
        measure_landscape(tiny_lm, tmp_path / "again", **settings)
    assert not (tmp_path / "again").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("b/*/*.h5")}
    assert len(before) == 8
    again = measure_landscape(tiny_lm, tmp_path / "again", **settings)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    pd.testing.assert_frame_equal(again.rises, whole.rises)
    pd.testing.assert_frame_equal(again.curvature, whole.curvature)
    pd.testing.assert_frame_equal(again.sequences, whole.sequences)
    assert len(whole.rises) == 2 * 2 * (4 + 2 + 2 + 2)  # steps, directions, sets of each comparison


def test_sums_are_those_of_the_parts(tiny_lm, text, tmp_path):
    found = measure_landscape(tiny_lm, tmp_path / "found", work=tmp_path / "work", **SETTINGS)
    whole = found.curvature.query("by == 'all'").iloc[0]
    batches = text(tiny_lm, n_sequences=24, max_length=12)[1:]
    assert batches.n_sequences == found.settings["tiny"]["n_curvature"] == 8
    fisher = fisher_information(tiny_lm.model, batches, progress=False)
    assert whole["fisher"] == pytest.approx(sum(float(s.sum()) for s in fisher.scores.values()), rel=1e-5)
    alone = sequence_curvature(tiny_lm.model, batches, 2, progress=False)
    assert whole["trace"] == pytest.approx(alone.traces.sum(axis=2).mean(), rel=1e-5)
    told = found.fisher_beside_hessian().loc["tiny"]
    for name, value in {**alone.ratio(), **alone.rank_correlation()}.items():
        column = f"rank_{name}" if name in ("low", "high") else name  # the second of each name is the rank's
        assert told[column] == pytest.approx(value, rel=2e-3), column  # each number is written with four digits
    assert told["low"] == pytest.approx(alone.ratio()["low"], rel=2e-3)
    for by in ("rank of the score", "place"):
        parts = found.curvature[found.curvature["by"] == by]
        assert parts["elements"].sum() == whole["elements"]
        assert parts["fisher"].sum() == pytest.approx(whole["fisher"], rel=1e-4)
        assert parts["trace"].sum() == pytest.approx(whole["trace"], rel=1e-3)
    norms = found.rises.groupby("comparison")["norm"]
    for comparison in (measuring.EQUAL, measuring.FILTERED, measuring.EQUAL_HALVES):
        one = found.rises[found.rises["comparison"] == comparison].groupby("seed")["norm"]
        assert ((one.max() / one.min()) < 1 + 1e-5).all()
    assert norms.get_group(measuring.OWN_HALVES).nunique() > 1


@pytest.fixture
def known(tmp_path):
    """Two models; in the first the top rises more, in the second less, and "other" cannot be told from it."""
    rises = [
        {"comparison": "c", "moved": moved, "seed": seed, "norm": 2.0, "step": 1.0, "rise": rise + 0.1 * seed,
         "standard_error": 0.1}
        for moved, rise in (("the top", 3.0), ("a random", 1.0)) for seed in range(4)
    ]  # fmt: skip
    rises += [{**rises[0], "moved": "other", "seed": s, "rise": 3.0 + 0.1 * s + (-1) ** s} for s in range(4)]
    groups = [("rank of the score", "0 to 0.1 %", 10, 8.0, 2.0), ("rank of the score", "0.1 to 1 %", 90, 4.0, 1.0),
              ("rank of the score", "1 to 100 %", 900, 8.0, 1.0), ("place", "a", 500, 15.0, 3.0),
              ("place", "b", 500, 5.0, 1.0), ("all", "all", 1000, 20.0, 4.0)]  # fmt: skip
    tables = {"rises": rises, "sequences": _sequences([20.0] * 8, [4.0] * 8)}
    tables["curvature"] = [
        {"by": by, "group": group, "elements": n, "trace": trace, "standard_error": 2.0, "probe_error": 0.4,
         "fisher": fisher}
        for by, group, n, trace, fisher in groups
    ]  # fmt: skip
    save_findings(tmp_path / "one.json", {"words_per_sequence": 5.5}, **tables)
    turned = [{**row, "rise": -row["rise"]} for row in rises]
    save_findings(tmp_path / "two.json", {"words_per_sequence": 5.5}, **{**tables, "rises": turned})
    return LandscapeFindings.load(tmp_path)


def _sequences(traces: list[float], scores: list[float]) -> list[dict]:
    """What each sequence gave: to all parameters, and three quarters of its trace to the first of two places."""
    groups = (("all", "all", 1.0), ("place", "a", 0.75), ("place", "b", 0.25))
    return [
        {"by": by, "group": group, "traces": [share * trace for trace in traces], "scores": [share * f for f in scores]}
        for by, group, share in groups
    ]


def test_differences_are_paired_by_direction(known):
    row = known.differences().loc[("one", "c", "the top", "a random")]
    assert row["difference"] == pytest.approx(2.0)
    assert row["high"] - row["low"] < 1e-6  # the same in each direction, although the rises differ
    assert (row["higher"], row["directions"]) == (4, 4)
    summary = known.summary().loc[("one", "c", "the top")]
    assert (summary["rise"], summary["lowest"], summary["highest"]) == pytest.approx((3.15, 3.0, 3.3))


def test_each_sentence_says_what_came_out(known):
    said = "\n".join(known.verdicts())
    assert "one, c: the loss rises more along the top than along a random" in said
    assert "two, c: the loss rises LESS along the top than along a random" in said
    assert "one, c: no difference seen between the top and other" in said
    assert "trace / sum of Fisher scores 5.0 (5.0 to 5.0, 95 % interval over 8 sequences), with" in said
    assert "hold 75% of the Fisher scores and 60% of the trace" in said
    assert known.fisher_beside_hessian()["rank_correlation"].tolist() == [1.0, 1.0]


def test_sequences_that_disagree_widen_the_interval(tmp_path, known):
    """The same sums of the same probes, from sequences that agree and from some that do not."""
    curvature, settings = known.curvature[known.curvature["model"] == "one"].to_dict("records"), known.settings["one"]
    rises, found = known.rises[known.rises["model"] == "one"].to_dict("records"), {}
    for name, traces in {"even": [20.0] * 8, "odd": [2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 30.0, 80.0]}.items():
        tables = {"rises": rises, "curvature": curvature, "sequences": _sequences(traces, [4.0] * 8)}
        for row in rises + curvature:
            row.pop("model", None)
        save_findings(tmp_path / f"{name}.json", settings, **tables)
        found[name] = LandscapeFindings.load(tmp_path / f"{name}.json")
    even, odd = (each.fisher_beside_hessian().iloc[0] for each in found.values())
    assert even["ratio"] == odd["ratio"] == 5.0
    assert (even["standard_error"], even["low"], even["high"]) == pytest.approx((0, 5, 5))
    assert odd["probe_error"] == pytest.approx(0.4 / 4)
    error = np.std([0.5, 1, 1.5, 2, 2.5, 5, 7.5, 20], ddof=1) / np.sqrt(8)
    assert odd["standard_error"] == pytest.approx(error)
    assert odd["text_error"] == pytest.approx(np.sqrt(error**2 - 0.01))
    assert odd["low"] < 5 - error
    assert odd["high"] > 5 + 2 * error  # the skew of the sequences is the interval's too
    said = found["odd"].verdicts()[-1]
    assert f"Fisher scores 5.0 ({odd['low']:.1f} to {odd['high']:.1f}, 95 % interval over 8 sequences), with" in said


def test_a_changed_number_is_noticed(tiny_lm, text, tmp_path):
    measure_landscape(tiny_lm, tmp_path, work=tmp_path / "work", **SETTINGS)
    file = tmp_path / "tiny.json"
    content = file.read_text()
    digits = [m.start() for m in re.finditer(r"\d", content)]
    for at in digits[:: len(digits) // 40]:
        file.write_text(content[:at] + str((int(content[at]) + 1) % 10) + content[at + 1 :])
        with pytest.raises(DamagedFile, match=r"tiny\.json .*landscape-findings"):
            LandscapeFindings.load(tmp_path)
    for part in ("", content[: len(content) // 2], "[]", '{"format": 1}'):
        file.write_text(part)
        with pytest.raises(DamagedFile, match=r"tiny\.json .*landscape-findings"):
            LandscapeFindings.load(file)


def test_what_is_bundled_is_read():
    found = LandscapeFindings.load(data_folder() / "landscape_findings")
    assert "bert-mini" in found.settings
    assert (found.summary()["directions"] >= 4).all()
    assert "LandscapeFindings(" in found._repr_html_()


def test_a_folder_without_findings_says_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m gdrop_viz landscape-findings"):
        LandscapeFindings.load(tmp_path)
