"""Labelled tasks hold the right rows under every way of loading; metrics agree with their definitions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdrop_viz.text import metrics as _metrics
from gdrop_viz.text.glue import GLUE
from gdrop_viz.text.labelled import drawing_order
from gdrop_viz.text.tasks import Task, load_task


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the files that `datasets` caches out of the user's home."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make_task(n: int = 100, rare: int = 20, **changes) -> Task:
    from datasets import Dataset

    labels = [1 if i < rare else 0 for i in range(n)]
    rows = Dataset.from_dict({"text": [f"text {i}" for i in range(n)], "label": labels})
    return Task(**{"name": "mine", "train": rows, "validation": rows, **changes})


# -- fractions ---------------------------------------------------------------------------------------------------------


def test_fractions_are_nested_and_stratified():
    task = make_task()
    previous: set[str] = set()
    for fraction, positive in ((0.05, 1), (0.1, 2), (0.25, 5), (0.5, 10), (1.0, 20)):
        rows = task.fraction(fraction, seed=3).train
        assert len(rows) == round(100 * fraction)
        assert sum(rows["label"]) == positive
        assert previous < set(rows["text"])
        previous = set(rows["text"])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_prefix_of_the_drawing_order_has_the_classes_in_their_shares(labels, seed):
    classes = np.array(labels)
    order = drawing_order(len(classes), classes, seed)
    assert sorted(order) == list(range(len(classes)))
    for n in range(len(classes) + 1):
        for value in np.unique(classes):
            share = n * (classes == value).mean()
            # rounding of this class, plus what the rounding of the three others may push
            assert abs((classes[order[:n]] == value).sum() - share) <= 2


def test_a_fraction_keeps_the_order_the_validation_and_the_seed():
    task = make_task()
    part = task.fraction(0.3, seed=1)
    numbers = [int(text.split()[1]) for text in part.train["text"]]
    assert numbers == sorted(numbers)
    assert part.validation is task.validation
    assert part.train["text"] == task.fraction(0.3, seed=1).train["text"]
    assert part.train["text"] != task.fraction(0.3, seed=2).train["text"]
    assert task.fraction(1.0).train is task.train


def test_a_subset_is_a_pool_of_both():
    task = make_task().subset(n_train=50, n_validation=10)
    assert (len(task.train), len(task.validation)) == (50, 10)
    assert (sum(task.train["label"]), sum(task.validation["label"])) == (10, 2)
    assert set(task.fraction(0.2).train["text"]) <= set(task.fraction(0.4).train["text"]) <= set(task.train["text"])


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, math.nan, 0.001])
def test_a_fraction_must_leave_rows(fraction):
    with pytest.raises(ValueError, match="fraction"):
        make_task().fraction(fraction)


@pytest.mark.parametrize("n", [0, 101, 2.5])
def test_a_subset_cannot_have_more_rows_than_there_are(n):
    with pytest.raises(
        ValueError, match=rf"the number of training rows of 'mine' as a whole number from 1 to 100, got {n}"
    ):
        make_task().subset(n_train=n)


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    tp, tn = ((predictions == 1) & (labels == 1)).sum(), ((predictions == 0) & (labels == 0)).sum()
    fp, fn = ((predictions == 1) & (labels == 0)).sum(), ((predictions == 0) & (labels == 1)).sum()
    expected = {
        "accuracy": (tp + tn) / 200,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "matthews": (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }
    assert _metrics.compute(_metrics.CLASSIFICATION, predictions, labels) == pytest.approx(expected, rel=1e-12)

    labels = rng.normal(size=200)
    predictions = labels + rng.normal(size=200)
    ranks = [np.argsort(np.argsort(values)) for values in (labels, predictions)]
    expected = {
        "pearson": np.corrcoef(labels, predictions)[0, 1],
        "spearman": np.corrcoef(*ranks)[0, 1],
        "mse": ((labels - predictions) ** 2).mean(),
    }
    assert _metrics.compute(_metrics.REGRESSION, predictions, labels) == pytest.approx(expected, rel=1e-12)


def test_f1_of_three_classes_is_the_mean_over_classes():
    labels, predictions = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 0]
    assert _metrics.compute(["f1"], predictions, labels)["f1"] == pytest.approx((2 / 5 + 4 / 5 + 0) / 3)


def test_constant_predictions_have_finite_metrics_and_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _metrics.compute(_metrics.CLASSIFICATION, [0, 0, 0], [0, 1, 0]) == {
            "accuracy": pytest.approx(2 / 3),
            "f1": 0,
            "matthews": 0,
        }
        assert _metrics.compute(("pearson", "spearman"), [1.0, 1.0], [1.0, 2.0]) == {"pearson": 0, "spearman": 0}
        assert all(map(math.isnan, _metrics.compute(("pearson", "spearman"), [1.0, 2.0], [1.0, 1.0]).values()))


def test_scores_and_columns_are_understood():
    task = make_task(metrics=("accuracy", "f1"))
    scores = np.array([[2.0, 1.0], [0.1, 0.2]])
    assert task.compute_metrics(scores, [0, 1]) == {"accuracy": 1.0, "f1": 1.0}
    assert list(task.compute_metrics(scores, [0, 1])) == ["accuracy", "f1"]
    regression = make_task(kind="regression", metrics=("mse",))
    assert regression.compute_metrics([[1.0], [2.0]], [1.0, 4.0]) == {"mse": 2.0}


@pytest.mark.parametrize("predictions", [[1], [], [math.nan, 1.0]])
def test_predictions_that_do_not_fit(predictions):
    with pytest.raises(ValueError, match="predictions"):
        make_task().compute_metrics(predictions, [0, 1])


# -- a task of one's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ranking"}, "expected kind to be one of"),
        ({"metrics": ("bleu",)}, "expected metrics of a classification among"),
        ({"metrics": ()}, "expected metrics of a classification among"),
        ({"kind": "regression"}, "expected metrics of a regression among"),
        ({"n_labels": 1}, r"labels 0 \.\.\. 0"),
    ],
)
def test_a_task_is_checked_when_it_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        make_task(**changes)


def test_a_task_needs_its_columns_and_rows():
    rows = make_task().train
    with pytest.raises(ValueError, match="the columns text and label in the validation rows"):
        make_task(validation=rows.rename_column("text", "words"))
    with pytest.raises(ValueError, match="no test rows"):
        make_task(test=rows.select([]))
    with pytest.raises(ValueError, match=r"test labels 0 \.\.\. 1"):
        make_task(test=rows.remove_columns("label").add_column("label", [-1] * 100))


def test_tables_and_html():
    frame = make_task(label_names=("bad", "good")).to_frame()
    assert frame.loc["train"].to_dict() == {"rows": 100, "bad": 80, "good": 20}
    regression = make_task(kind="regression", metrics=("pearson",))
    assert regression.n_labels == 1
    assert regression.to_frame().loc["train", "mean"] == pytest.approx(0.2)
    assert "<script>" not in make_task(name="<script>", label_names=("<script>", "b"))._repr_html_()


# -- local files -------------------------------------------------------------------------------------------------------


def frame_of(n: int = 60) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "question": [f"question {i}" for i in range(n)],
            "answer": [f"answer {i % 7}" for i in range(n)],
            "verdict": ["yes" if i % 3 == 0 else "no" for i in range(n)],
            "stars": [i / 7 for i in range(n)],
            "part": ["train" if i < 40 else "dev" if i < 50 else "test" for i in range(n)],
        }
    )


def write(frame: pd.DataFrame, path):
    {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(path),
    }[path.suffix]()
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_local_files(tmp_path, suffix):
    path = write(frame_of(), tmp_path / f"quiz.{suffix}")
    task = load_task(path, text="question", text_pair="answer", label="verdict", validation="part")
    assert (task.name, task.kind, task.n_labels, task.metrics) == ("quiz", "classification", 2, ("accuracy",))
    assert task.label_names == ("no", "yes")
    assert [len(rows) for rows in (task.train, task.validation, task.test)] == [40, 10, 10]
    assert task.train.column_names == ["text", "text_pair", "label"]
    assert task.train[3] == {"text": "question 3", "text_pair": "answer 3", "label": 1}
    assert task.is_pair


def test_a_share_for_validation_is_stratified_and_keeps_equal_texts_together(tmp_path):
    frame = frame_of(30)
    frame["question"] = [f"question {i // 3}" for i in range(30)]  # each text three times
    frame["verdict"] = ["yes" if i // 3 % 2 else "no" for i in range(30)]
    path = write(frame, tmp_path / "quiz.csv")
    task = load_task(path, text="question", label="verdict", validation=0.4)
    assert len(task.validation) == 12
    assert sum(task.validation["label"]) == 6
    assert not set(task.train["text"]) & set(task.validation["text"])
    assert task.test is None
    again = load_task(path, text="question", label="verdict", validation=0.4, seed=1)
    assert set(again.validation["text"]) != set(task.validation["text"])


def test_validation_in_a_file_of_its_own(tmp_path):
    train, dev = write(frame_of(), tmp_path / "train.csv"), write(frame_of(9), tmp_path / "dev.csv")
    for validation in (dev, str(dev)):
        task = load_task(train, text="question", label="verdict", validation=validation)
        assert (len(task.train), len(task.validation)) == (60, 9)
        assert task.validation["label"] == [1, 0, 0] * 3


def test_labels_tell_the_kind(tmp_path):
    path = write(frame_of(), tmp_path / "quiz.csv")
    task = load_task(path, text="question", label="stars")
    assert (task.kind, task.n_labels, task.metrics) == ("regression", 1, ("pearson", "spearman"))
    assert len(task.validation) == 12
    frame = frame_of()
    frame["stars"] = range(60)
    path = write(frame, tmp_path / "numbers.csv")
    with pytest.raises(ValueError, match="got 60 different labels; pass kind="):
        load_task(path, text="question", label="stars")
    assert load_task(path, text="question", label="stars", kind="regression").kind == "regression"
    frame["stars"] = [10 * (1 + i % 3) for i in range(60)]
    task = load_task(write(frame, tmp_path / "tens.csv"), text="question", label="stars", metrics=["f1", "accuracy"])
    assert (task.n_labels, task.label_names, task.metrics) == (3, ("10", "20", "30"), ("f1", "accuracy"))
    assert set(task.train["label"]) == {0, 1, 2}


def test_columns_may_have_each_others_names(tmp_path):
    frame = pd.DataFrame({"label": ["a b", "c d", "e f", "g h"] * 5, "text": ["x", "y"] * 10, "split": "train"})
    frame.loc[10:, "split"] = "validation"
    task = load_task(write(frame, tmp_path / "swapped.csv"), text="label", label="text")
    assert task.train[1] == {"text": "c d", "label": 1}
    assert (len(task.train), len(task.validation)) == (10, 10)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text": "review"}, ValueError, r"text= as a column of 'quiz': question, answer.*, got 'review'"),
        ({"label": "class"}, ValueError, r"label= as a column of .*, got 'class'"),
        ({"label": "gaps"}, ValueError, r"'gaps' in every row of 'quiz', got 40 of 60 without"),
        ({"label": "same"}, ValueError, r"got only the label 'x'"),
        ({"label": "question", "text": "question"}, ValueError, r"expected different columns"),
        ({"validation": "verdict"}, ValueError, r"expected 'train' and 'validation'.*'no', 'yes'"),
        ({"validation": 1.0}, ValueError, r"above 0 and below 1"),
        ({"validation": 0.001}, ValueError, r"leaves rows on both sides"),
        ({"validation": "none.csv"}, FileNotFoundError, r"a file or a column of 'quiz': question.*, got 'none.csv'"),
        ({"source": "folder"}, ValueError, r"source= and revision=, which say where GLUE comes from"),
        ({"kind": "regression"}, ValueError, r"expected numbers as the labels of 'quiz' for a regression"),
        ({"metrics": ["bleu"]}, ValueError, r"expected metrics of a classification among"),
        ({"resplit": "all"}, ValueError, r"one of None, 'pooled'"),
    ],
)
def test_bad_arguments_are_one_clear_line(tmp_path, changes, error, message):
    frame = frame_of()
    frame["gaps"] = [None if i % 3 else "x" for i in range(60)]
    frame["same"] = "x"
    path = write(frame, tmp_path / "quiz.csv")
    with pytest.raises(error, match=message) as caught:
        load_task(path, **{"text": "question", "label": "verdict", **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("nowhere.csv", None, FileNotFoundError, "does not exist"),
        ("empty.csv", "", ValueError, "is empty"),
        ("broken.parquet", "no parquet", ValueError, "could not be read as parquet"),
        ("table.xlsx", "x", ValueError, r"ending in \.csv"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message) as caught:
        load_task(tmp_path / name)
    assert "\n" not in str(caught.value)


# -- bundled and GLUE --------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(FileNotFoundError, match=r"\(acceptability, rating, sentiment\), one of GLUE \(glue/cola"):
        load_task("sentimental")
    with pytest.raises(FileNotFoundError, match=r"expected a task of GLUE, glue/cola, .*, got 'glue/ax'"):
        load_task("glue/ax")
    with pytest.raises(TypeError, match="got int"):
        load_task(3)


def test_arguments_for_files_are_not_ignored_for_bundled_tasks():
    for name in ("sentiment", "glue/rte"):
        with pytest.raises(ValueError, match="expected a local file or rows in memory with validation="):
            load_task(name, validation=0.5)


def test_glue_offline_is_one_line(monkeypatch):
    with pytest.raises(RuntimeError, match=r"not in the local cache.*pass source=") as caught:
        load_task("glue/rte")
    assert "\n" not in str(caught.value)


@pytest.fixture
def glue_copy(tmp_path):
    """A small folder in the layout of the hub's "nyu-mll/glue", with its column names and unlabelled test sets."""
    columns = {
        "cola": ["sentence"],
        "sst2": ["sentence"],
        "mrpc": ["sentence1", "sentence2"],
        "qqp": ["question1", "question2"],
        "stsb": ["sentence1", "sentence2"],
        "mnli": ["premise", "hypothesis"],
        "qnli": ["question", "sentence"],
        "rte": ["sentence1", "sentence2"],
        "wnli": ["sentence1", "sentence2"],
    }
    for config, texts in columns.items():
        validation = ["validation_matched", "validation_mismatched"] if config == "mnli" else ["validation"]
        test = ["test_matched", "test_mismatched"] if config == "mnli" else ["test"]
        for split in ["train", *validation, *test]:
            n = 30 if split == "train" else 10
            labels = [i % 3 for i in range(n)] if config == "mnli" else [i % 2 for i in range(n)]
            if config == "stsb":
                labels = [float(i % 6) for i in range(n)]
            if split in test:
                labels = [-1] * n
            frame = pd.DataFrame({column: [f"{column} {split} {i}" for i in range(n)] for column in texts})
            frame["label"], frame["idx"] = labels, range(n)
            folder = tmp_path / "glue" / config
            folder.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return tmp_path / "glue"


@pytest.mark.parametrize("config", GLUE)
def test_glue_from_a_local_copy(glue_copy, config):
    task = load_task(f"glue/{config}", source=glue_copy)
    assert task.train.column_names == (
        ["text", "label"] if config in ("cola", "sst2") else ["text", "text_pair", "label"]
    )
    assert (len(task.train), len(task.validation), task.test) == (30, 10, None)
    assert task.n_labels == {"stsb": 1, "mnli": 3}.get(config, 2)
    assert task.kind == ("regression" if config == "stsb" else "classification")
    primary = {"cola": "matthews", "stsb": "pearson"}.get(config, "accuracy")
    assert task.metrics[0] == primary
    first = {"mnli": "premise", "qqp": "question1", "qnli": "question", "cola": "sentence", "sst2": "sentence"}
    assert task.train["text"][4] == f"{first.get(config, 'sentence1')} train 4"
    second = {"mnli": "hypothesis", "qqp": "question2", "qnli": "sentence"}
    if task.is_pair:
        assert task.train["text_pair"][4] == f"{second.get(config, 'sentence2')} train 4"


def test_mnli_has_two_validation_sets(glue_copy):
    for resplit in (None, "pooled"):  # the paper, too, leaves MNLI's validation sets alone
        task = load_task("glue/mnli", source=str(glue_copy), resplit=resplit)
        assert list(task.splits) == ["train", "validation", "validation_mismatched"]
        assert task.validation["text"][0] == "premise validation_matched 0"
        assert task.more_validation["validation_mismatched"]["text"][0] == "premise validation_mismatched 0"
    assert [len(rows) for rows in task.subset(n_validation=6).splits.values()] == [30, 6, 6]


def test_the_pooled_resplit_is_80_20_of_train_and_validation(glue_copy):
    plain = load_task("glue/rte", source=glue_copy)
    pooled = load_task("glue/rte", source=glue_copy, resplit="pooled", seed=1)
    assert (len(pooled.train), len(pooled.validation)) == (32, 8)
    everything = sorted([*plain.train["text"], *plain.validation["text"]])
    assert sorted([*pooled.train["text"], *pooled.validation["text"]]) == everything
    other = load_task("glue/rte", source=glue_copy, resplit="pooled", seed=2)
    assert set(other.validation["text"]) != set(pooled.validation["text"])


def test_an_incomplete_copy_of_glue_says_what_is_missing(glue_copy):
    (glue_copy / "rte" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"rte/validation-00000-of-00001\.parquet"):
        load_task("glue/rte", source=glue_copy)


def test_loading_is_silent_and_leaves_the_random_numbers_alone(glue_copy, capfd):
    before = np.random.get_state()[1].tolist()
    load_task("glue/rte", source=glue_copy).fraction(0.5)
    load_task("sentiment")
    assert np.random.get_state()[1].tolist() == before
    assert capfd.readouterr() == ("", "")
