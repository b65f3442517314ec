from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from gdrop_viz.finetuning import Comparison
from gdrop_viz.finetuning.power import seeds_needed
from gdrop_viz.finetuning.run_table import COLUMNS
from gdrop_viz.finetuning.statistics import equivalence_p, holm
from gdrop_viz.finetuning.store import RunStore


def made_up(scores, *, metric="accuracy", seeds=None):
    """A comparison with `scores`: {(arm, fraction): values by seed}; the first epoch is at 0 everywhere."""
    rows = [
        (arm, fraction, seed, epoch, split, name, number, float(epoch))
        for (arm, fraction), values in scores.items()
        for seed, value in zip(seeds or range(len(values)), values, strict=True)
        for epoch, number in ((1, 0.0), (2, value))
        for split, name in (("train", "loss"), ("validation", metric))
    ]
    return Comparison(pd.DataFrame(rows, columns=COLUMNS), metric=metric, metadata={"task": "t<ask>", "model": "m"})


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return {
        (arm, fraction): rng.normal(0.8, 0.02, size=7).round(4)
        for fraction in (1.0, 0.25)
        for arm in ("standard", "guided", "none")
    }


@pytest.fixture
def result(scores):
    return made_up(scores)


def test_summary_against_scipy(result, scores):
    table = result.summary()
    assert list(table.columns) == ["arm", "fraction", "mean", "low", "high", "std", "n", "diverged"]
    assert len(table) == 6
    for row in table.itertuples():
        values = scores[row.arm, row.fraction]
        interval = scipy.stats.ttest_1samp(values, 0.0).confidence_interval()
        assert row.mean == pytest.approx(values.mean())
        assert (row.low, row.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
        assert row.n == 7


def test_paired_against_scipy(result, scores):
    table = result.paired("guided", "standard").set_index("fraction")
    for fraction in (1.0, 0.25):
        a, b = scores["guided", fraction], scores["standard", fraction]
        row = table.loc[fraction]
        interval = scipy.stats.ttest_rel(a, b).confidence_interval()
        test = scipy.stats.permutation_test(
            (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=np.inf
        )
        assert row["mean"] == pytest.approx((a - b).mean())
        assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
        assert row["p"] == pytest.approx(test.pvalue)
    assert (table["p_holm"] >= table["p"]).all()


def test_only_seeds_that_both_arms_ran_are_paired():
    first = made_up({("a", 1.0): [0.8, 0.7, 0.9]}, seeds=[0, 1, 2])
    second = made_up({("b", 1.0): [0.6, 0.5, 0.1]}, seeds=[1, 2, 5])
    both = Comparison(pd.concat([first.runs, second.runs], ignore_index=True), metric="accuracy")
    differences = both.differences("a", "b")
    assert differences["seed"].tolist() == [1, 2]
    np.testing.assert_allclose(differences["value"], [0.7 - 0.6, 0.9 - 0.5])
    assert both.paired("a", "b")["n"].tolist() == [2]


def test_a_diverged_seed_is_counted_and_ranked():
    a = [0.80, 0.82, 0.81, math.nan, 0.84, 0.83, 0.85]
    b = [0.78, 0.79, 0.80, 0.79, math.nan, 0.80, 0.81]
    result = made_up({("a", 1.0): a, ("b", 1.0): b})
    row = result.paired("a", "b").iloc[0]
    assert (row["n"], row["diverged_a"], row["diverged_b"]) == (5, 1, 1)
    assert row["mean"] == pytest.approx(np.mean([0.02, 0.03, 0.01, 0.03, 0.04]))
    ranks = result.paired_ranks("a", "b").iloc[0]
    assert (ranks["better"], ranks["worse"], ranks["n"]) == (6, 1, 7)
    summary = result.summary().set_index("arm")
    assert summary.loc["a", ["n", "diverged"]].tolist() == [6, 1]
    assert summary.loc["a", "mean"] == pytest.approx(np.nanmean(a))
    assert "diverged" in result._repr_html_()


def test_a_change_with_the_data_against_scipy(result, scores):
    """The difference of differences: is the gain larger where data are scarce?"""
    gain = {fraction: scores["guided", fraction] - scores["standard", fraction] for fraction in (1.0, 0.25)}
    change = result.change_with_data("guided", "standard", 0.25, 1.0)
    interval = scipy.stats.ttest_rel(gain[0.25], gain[1.0]).confidence_interval()
    assert (change["low"], change["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert change["mean"] == pytest.approx((gain[0.25] - gain[1.0]).mean())
    assert change["n"] == 7
    assert 2 / 2**7 <= change["p"] <= 1
    with pytest.raises(ValueError, match=r"expected fraction to be one of 1\.0, 0\.25, got 0\.5"):
        result.change_with_data("guided", "standard", 0.5, 1.0)


def test_seeds_are_joined(scores):
    parts = [made_up({key: values[i : i + 1] for key, values in scores.items()}, seeds=[i]) for i in range(len(scores))]
    joined, whole = Comparison.joined(parts), made_up({key: values[: len(parts)] for key, values in scores.items()})
    pd.testing.assert_frame_equal(joined.paired("guided", "none"), whole.paired("guided", "none"))
    assert joined.arms == whole.arms
    with pytest.raises(ValueError, match="'standard' at 100 % of the data with seed 1 came more than once"):
        Comparison.joined([*parts, parts[1]])
    with pytest.raises(ValueError, match="at least one comparison"):
        Comparison.joined([])


def test_another_validation_set(result, scores):
    """MNLI is scored on two sets."""
    other = result.runs[result.runs["split"] == "validation"].assign(split="validation_mismatched")
    other["value"] += 0.1 * (other["arm"] == "guided")
    both = Comparison(pd.concat([result.runs, other], ignore_index=True), "accuracy", {"task": "glue/mnli"})
    assert both.validation_sets == ["validation", "validation_mismatched"]
    assert both.summary().equals(result.summary()), "the first set unless told otherwise"
    mismatched = both.on("validation_mismatched")
    difference = scores["guided", 1.0] - scores["standard", 1.0]
    found = mismatched.paired("guided", "standard").set_index("fraction")["mean"]
    assert found[1.0] == pytest.approx(difference.mean() + 0.1)
    assert "validation_mismatched" in mismatched._repr_html_()
    with pytest.raises(ValueError, match="to be one of 'validation', 'validation_mismatched', got 'test'"):
        both.on("test")


def test_the_last_epoch_counts(result):
    assert (result.scores()["value"] > 0.5).all()


def test_seeds_needed(result, scores):
    table = result.seeds_needed(0.01)
    assert len(table) == 3 * 2
    row = result.seeds_needed(0.01, "guided", "standard").set_index("fraction").loc[0.25]
    std = np.std(scores["guided", 0.25] - scores["standard", 0.25], ddof=1)
    assert row["seeds_needed"] == seeds_needed(0.01, std, n_tests=2, std_from=7), "as the verdict corrects"
    assert len(result.seeds_needed(0.01, "guided")) == 2 * 2


class TestVerdict:
    def test_one_line_per_fraction(self, result):
        lines = result.verdict("guided", "standard").splitlines()
        assert [line.split(":")[0] for line in lines] == [
            "100 % of the data, accuracy",
            "25 % of the data, accuracy",
        ]
        assert "Holm" in result.verdict("guided", "standard")

    def test_a_loss_is_better_when_smaller_and_not_in_points(self):
        noise = np.array([0.0, 0.001, -0.001, 0.002, -0.002, 0.0])
        result = made_up({("a", 1.0): 0.5 + noise, ("b", 1.0): 0.6 - noise}, metric="loss")
        # "loss" of the train split has the same name; only validation counts
        assert "a is better than b: -0.10 of loss" in result.verdict("a", "b")

    def test_equivalence_is_corrected_for_the_fractions(self):
        rng = np.random.default_rng(1)
        base = {fraction: rng.normal(0.8, 0.02, 10) for fraction in (1.0, 0.5)}
        close = {fraction: values + rng.normal(0, 0.004, 10) for fraction, values in base.items()}
        result = made_up({("a", f): close[f] for f in base} | {("b", f): base[f] for f in base})
        lines = result.verdict("a", "b").splitlines()
        p = [equivalence_p(d.mean(), d.std(ddof=1), 10, 0.01) for d in (close[f] - base[f] for f in (1.0, 0.5))]
        for line, corrected in zip(lines, holm(p), strict=True):
            assert f"a difference larger than 1 point is excluded (two one-sided tests, p = {corrected:.2g})" in line
        assert "whether it is larger than 0.01 points is undecided" in result.verdict("a", "b", margin=1e-4)

    def test_of_a_loss_no_margin_is_assumed(self):
        result = made_up({("a", 1.0): [0.5, 0.6, 0.4], ("b", 1.0): [0.5, 0.5, 0.5]}, metric="loss")
        assert "larger than" not in result.verdict("a", "b")
        assert "whether it is larger than 0.05 of loss is undecided" in result.verdict("a", "b", margin=0.05)

    def test_one_seed(self):
        result = made_up({("a", 1.0): [0.8], ("b", 1.0): [0.7]})
        assert math.isnan(result.summary()["low"].iloc[0])
        assert "single seed, whose spread is unknown" in result.verdict("a", "b")
        assert "one seed has no spread" in result._repr_html_()
        assert "unknown" in result._repr_html_()


class TestSaveAndLoad:
    def test_everything_comes_back(self, result, tmp_path):
        loaded = Comparison.load(result.save(tmp_path / "comparison.json"))
        assert loaded.runs.equals(result.runs)
        assert loaded.metric == result.metric
        assert dict(loaded.metadata) == dict(result.metadata)
        assert loaded.summary().equals(result.summary())

    def test_nan_comes_back(self, tmp_path):
        result = made_up({("a", 1.0): [0.8, math.nan], ("b", 1.0): [0.7, 0.6]})
        loaded = Comparison.load(result.save(tmp_path / "comparison.json"))
        assert loaded.scores()["value"].isna().sum() == 1
        assert "left out: 1 run of a without a finite value" in loaded.verdict("a", "b")

    def test_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            Comparison.load(tmp_path / "nothing")
        with pytest.raises(FileNotFoundError, match="no finished run"):
            Comparison.load(tmp_path)
        (tmp_path / "a.json").write_text("{}")
        with pytest.raises(ValueError, match="is not a saved comparison"):
            Comparison.load(tmp_path / "a.json")
        (tmp_path / "b.json").write_text("{")
        with pytest.raises(ValueError, match="not JSON"):
            Comparison.load(tmp_path / "b.json")

    def test_a_folder_of_several_settings_is_not_mixed(self, tmp_path):
        store = RunStore.open(tmp_path)
        rows = [{"epoch": 1, "split": "validation", "metric": "accuracy", "value": 0.5, "seconds": 1.0}]
        about = {"arm": "standard", "model": "tiny", "task": "animals", "metric": "accuracy"}
        for epochs in (1, 2):
            common = {"model": "x", "task": "y", "hyperparameters": {"epochs": epochs}}
            store.write({"common": common, "fraction": 1.0, "seed": 0}, rows, about=about)
        with pytest.raises(ValueError, match="2 different settings"):
            Comparison.load(tmp_path)


class TestErrors:
    def test_unknown_arm(self, result):
        with pytest.raises(ValueError, match="expected an arm to be one of 'standard', 'guided', 'none', got 'giuded'"):
            result.paired("giuded", "standard")

    def test_the_same_arm_twice(self, result):
        with pytest.raises(ValueError, match="two different arms"):
            result.verdict("guided", "guided")

    def test_unknown_metric(self, result):
        with pytest.raises(ValueError, match="expected metric to be one of 'accuracy', got 'f1'"):
            result.summary("f1")


def test_views_escape_and_do_not_share(result):
    assert "t&lt;ask&gt;" in result._repr_html_()
    frame = result.to_frame()
    frame["value"] = 0.0
    assert (result.scores()["value"] > 0).all()
    assert "42 runs" in repr(result)
