"""Tables as they lie on people's disks: each loads as it was written, or one line says which argument to give."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from gdrop_viz import Task, load_task, pretraining_batches
from gdrop_viz.text.delimited import read_delimited
from tests.conftest import WORDS


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the files that `datasets` caches out of the user's home."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def written(path, text: str, encoding: str = "utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def loaded_quietly(*args, **kwargs) -> Task:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_task(*args, **kwargs)


def texts_of(task: Task) -> set[str]:
    return {text for rows in task.splits.values() for text in rows["text"]}


# --- cells ------------------------------------------------------------------------------------------------------------

# a cell begins with a lone quote; a lone quote ends another; a pair of them stands around one cell only
QUOTED = ['"Lone at the start', 'in the 5" middle', 'at the end"', '"twice', 'again"', '"around"', '"he" said', "plain"]


@pytest.mark.parametrize("which", [[0, 7], [0, 2, 7], [0, 1, 2, 3, 4, 5, 6, 7], [6, 5], [3, 4]])
def test_lone_quotes_swallow_no_rows_of_a_tsv(tmp_path, which):
    texts = [f"{QUOTED[i]}" for i in which] * 6
    lines = [f"{text}\t{i % 2}" for i, text in enumerate(texts)]
    path = written(tmp_path / "glue.tsv", "\n".join(["sentence\tlabel", *lines]) + "\n")
    task = loaded_quietly(path, validation=0.5)
    assert texts_of(task) == set(texts)
    assert len(read_delimited(path)["sentence"]) == len(texts)


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_quotes_of_a_proper_table_stand_around_its_cells(tmp_path, separator):
    texts = ['he said "no", and left', "two\nlines", "a blank\n\nline", f"one{separator}two", '"whole"', "plain"] * 4
    frame = pd.DataFrame({"text": texts, "label": [i % 2 for i in range(24)]})
    path = tmp_path / "proper.csv"
    frame.to_csv(path, index=False, sep=separator)
    assert read_delimited(path)["text"] == texts
    assert texts_of(loaded_quietly(path, validation=0.5)) == set(texts)


def test_quotes_escaped_by_a_backslash(tmp_path):
    path = written(tmp_path / "spark.csv", 'text,label\n"he said \\"no\\", twice",1\n"a, b",0\n')
    assert read_delimited(path) == {"text": ['he said "no", twice', "a, b"], "label": [1, 0]}


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('text,label\n"open,1\na, b,0\nplain,1\n', "unexpected end of data, line 4"),
        ('text,label\n"open" more,1\na, b,0\n', r"',' expected after '\"', line 2"),
        ("a,b\n1,2\n1,2,3\n", "row 3 has 3 cells where row 1 has 2"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, text, row):
    with pytest.raises(ValueError, match=row) as caught:
        read_delimited(written(tmp_path / "broken.csv", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_words_and_codes_stay_as_they_are_written(tmp_path, suffix):
    texts = ["NA", "null", "None", "nan", "n/a", "01000", "1.50", "1e3", "-0", "TRUE", "  blanks  "] * 4
    frame = pd.DataFrame({"text": texts, "label": ["NA", "yes"] * 22, "split": (["train"] * 11 + ["dev"] * 11) * 2})
    path = tmp_path / f"words.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    task = loaded_quietly(path)
    assert [*task.train["text"], *task.validation["text"]] == texts[:11] + texts[22:33] + texts[11:22] + texts[33:]
    assert task.label_names == ("NA", "yes")


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("cp1252", "cp1252"), ("latin-1", "cp1252")],
)
def test_encodings(tmp_path, encoding, told):
    texts = ["Füße", "señor", "naïve café", "plain"] * 5
    lines = "\n".join(f"{text},{i % 2}" for i, text in enumerate(texts))
    path = written(tmp_path / "words.csv", f"text,label\n{lines}\n", encoding)
    if told is None:
        task = loaded_quietly(path, validation=0.5)
    else:
        with pytest.warns(UserWarning, match=f"'words.csv' is not UTF-8; it is read as {told} .* pass encoding="):
            task = load_task(path, validation=0.5)
    assert texts_of(task) == set(texts)
    assert texts_of(loaded_quietly(path, validation=0.5, encoding=encoding)) == set(texts)
    with pytest.raises(ValueError, match="one that Python knows, got 'utf-9'"):
        load_task(path, encoding="utf-9")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_encodings_of_json_and_of_plain_text(tmp_path, tiny_lm, encoding):
    rows = [json.dumps({"text": f"señor {i}", "label": i % 2}, ensure_ascii=False) for i in range(20)]
    path = written(tmp_path / "words.jsonl", "\n".join(rows), encoding)
    with pytest.warns(UserWarning, match=r"'words\.jsonl' is not UTF-8"):
        assert texts_of(load_task(path)) == {f"señor {i}" for i in range(20)}
    assert texts_of(loaded_quietly(path, encoding=encoding)) == {f"señor {i}" for i in range(20)}
    with pytest.raises(ValueError, match=r"expected a csv, tsv or txt file with separator=, got 'words\.jsonl'"):
        load_task(path, separator=";")
    plain = written(tmp_path / "words.txt", "\n".join([f"{' '.join(WORDS[:9])} señor"] * 9), encoding)
    with pytest.warns(UserWarning, match=r"'words\.txt' is not UTF-8"):
        batches = pretraining_batches(tiny_lm, plain, n_sequences=5, max_length=16)
    assert batches.n_sequences == 5


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "words.csv").write_bytes(b"text,label\n\0\1\2,1\n")
    with pytest.raises(ValueError, match="got bytes of zero"):
        load_task(tmp_path / "words.csv")


# --- separators, headers, columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_separators_are_found(tmp_path, separator):
    lines = "\n".join(f"good, or bad {i}{separator}{i % 2}" for i in range(20))
    path = written(tmp_path / "words.csv", f"text{separator}label\n{lines}")
    assert texts_of(loaded_quietly(path, validation=0.5)) == {f"good, or bad {i}" for i in range(20)}
    assert texts_of(loaded_quietly(path, validation=0.5, separator=separator)) == {
        f"good, or bad {i}" for i in range(20)
    }


@pytest.mark.parametrize("label", [lambda i: i % 2, lambda i: ("positive", "negative")[i % 2]])
def test_a_table_without_a_header_is_read_by_numbers_or_says_so(tmp_path, label):
    path = written(tmp_path / "words.tsv", "\n".join(f"{label(i)}\ttext {i}" for i in range(20)))
    with pytest.raises(
        ValueError, match=r"expected text= as a column of 'words': 0 \('.*'\), 1 \('text 0'\) \(it has no h"
    ):
        load_task(path)
    task = loaded_quietly(path, text=1, label="0", validation=0.5)
    assert texts_of(task) == {f"text {i}" for i in range(20)}
    with pytest.raises(ValueError, match=r"as a column of 'words': .*, got '2'"):
        load_task(path, text=2, label=0)


def test_a_header_may_be_named_as_one(tmp_path):
    path = written(tmp_path / "years.csv", "2019,2020\n" + "\n".join(f"text {i},{i % 2}" for i in range(20)))
    assert texts_of(loaded_quietly(path, text="2019", label="2020", header=True)) == {f"text {i}" for i in range(20)}


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        ("text,label", False),
        ("Sentence,Label", False),
        ("sentence1,sentence2,label", True),
        ("premise,hypothesis,gold_label", True),
        ("question1,question2,is_duplicate", True),
        ("Quality,#1 String,#2 String", True),
        ("sentence_A,sentence_B,score", True),
    ],
)
def test_usual_columns_are_found(tmp_path, names, pair):
    columns = names.split(",")
    is_label = {"label", "gold_label", "is_duplicate", "quality", "score"}
    rows = [",".join(str(i % 2) if name.lower() in is_label else f"{name} {i}" for name in columns) for i in range(20)]
    task = loaded_quietly(written(tmp_path / "usual.csv", "\n".join([names, *rows])))
    assert task.is_pair == pair
    assert (task.kind, task.n_labels) == ("classification", 2)
    first = next(name for name in columns if name.lower() not in is_label)
    assert texts_of(task) == {f"{first} {i}" for i in range(20)}


@pytest.mark.parametrize(
    ("names", "argument"), [("utterance,label", "text="), ("text,entailment_judgment,relatedness_score", "label=")]
)
def test_unusual_columns_ask_for_their_argument(tmp_path, names, argument):
    path = written(
        tmp_path / "odd.csv", names + "\n" + "\n".join(",".join(["a"] * len(names.split(","))) for _ in range(2))
    )
    with pytest.raises(
        ValueError, match=f"expected {argument} as a column of 'odd': {names.replace(',', ', ')}, got no usual"
    ):
        load_task(path, header=True)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["0.0", "1.0"], "classification", ("0", "1")),
        (["1.0", "2.0", "3.0"], "classification", ("1", "2", "3")),
        (["4.5", "3.00", "5"], "regression", ()),
        (["01", "02"], "classification", ("01", "02")),
        (["True", "False"], "classification", ("False", "True")),
        (["-1", "1"], "classification", ("-1", "1")),
        (["-1", "0", "1"], "classification", ("-1", "0", "1")),
        (["+", "-"], "classification", ("+", "-")),
        (["yes", " yes", "no "], "classification", ("no", "yes")),
    ],
)
def test_labels_mean_what_they_say(tmp_path, labels, kind, names):
    rows = [f"text {i},{labels[i % len(labels)]}" for i in range(30)]
    task = loaded_quietly(written(tmp_path / "labels.csv", "\n".join(["text,label", *rows])))
    assert (task.kind, task.label_names) == (kind, names)
    given = {f"text {i}": labels[i % len(labels)] for i in range(30)}
    for rows in task.splits.values():
        for row in rows:
            label = float(given[row["text"]]) if kind == "regression" else names.index(_name(given[row["text"]], names))
            assert row["label"] == label


def _name(label: str, names: tuple[str, ...]) -> str:
    return label.strip() if label.strip() in names else str(int(float(label)))


@pytest.mark.parametrize("values", [[True, False], [0.0, 1.0], np.array([0, 1], dtype=np.int8).tolist()])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_labels_of_typed_files(tmp_path, suffix, values):
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(20)], "label": values * 10})
    path = tmp_path / f"typed.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_json(path, orient="records", lines=True)
    task = loaded_quietly(path)
    assert (task.kind, task.n_labels) == ("classification", 2)
    assert {row["text"]: row["label"] for rows in task.splits.values() for row in rows} == {
        f"text {i}": sorted(values).index(values[i % 2]) for i in range(20)
    }


def parts(train, validation, test) -> list[dict]:
    labels = {"TRAIN": train, "Dev": validation, "test ": test}
    return [
        {"text": f"{split} {i}", "label": values[i % len(values)], "split": split}
        for split, values in labels.items()
        for i in range(8)
    ]


@pytest.mark.parametrize("missing", [-1, None, "-1"])
def test_a_test_split_without_labels_is_left_out_and_splits_are_known_in_any_case(missing):
    words = ["0", "1"] if isinstance(missing, str) else [0, 1]
    task = loaded_quietly(parts(words, words, [missing]))
    assert list(task.splits) == ["train", "validation"]
    assert (len(task.train), len(task.validation), task.n_labels) == (8, 8, 2)
    labelled = loaded_quietly(parts(words, words, words))
    assert len(labelled.test) == 8
    assert loaded_quietly(parts([-1, 1], [-1, 1], [-1])).test is not None, "a class of training is a class"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (parts([0, None], [0, 1], [1]), r"expected 'label' in every row of 'task', got 4 of 8 without"),
        (parts([0, 1], [None], [1]), r"expected 'label' in every row of 'task', got 8 of 8 without"),
        (parts([0, 1], [0, 1], [1, None]), r"expected 'label' in every row of 'task', got 4 of 8 without"),
        (parts([0.5, float("nan")], [0.5], [0.1]), r"expected 'label' in every row of 'task', got 4 of 8 without"),
        (parts(["a", ""], ["b"], ["a"]), r"expected 'label' in every row of 'task', got 4 of 8 without"),
        (parts(["4,5", "3,0"], ["4,5"], ["4,5"]), r"with decimal points, got '4,5'; replace the commas"),
        (parts([[0, 1], [1]], [[1]], [[0]]), r"expected one label in each cell of 'label' of 'task', got list"),
        (
            [{"text": ["a", "b"], "label": i % 2} for i in range(9)],
            r"expected one text in each cell of 'text' .* got list",
        ),
        (parts([0, 1, 2, -1], [0, 1], [1]), r"got 2 of -1, the usual mark of a missing one"),
        ([*parts([0, 1], [0, 1], [1]), {"text": "x", "label": 1, "split": "extra"}], r"got 'Dev', 'TRAIN', 'extra'"),
    ],
)
def test_missing_labels_and_unknown_splits_are_refused(rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_task(rows)
    assert "\n" not in str(caught.value)


# --- rows in memory ---------------------------------------------------------------------------------------------------


def sources():
    from datasets import ClassLabel, Dataset

    rows = [{"text": f"text {i}", "label": i % 2} for i in range(20)]
    data = Dataset.from_list(rows)
    named = data.cast_column("label", ClassLabel(names=["zebra", "ant"]))
    return {
        "a list of dicts": rows,
        "a generator": (row for row in rows),
        "a mapping of columns": {"text": [row["text"] for row in rows], "label": [row["label"] for row in rows]},
        "a mapping of arrays": {name: np.array([row[name] for row in rows]) for name in ("text", "label")},
        "an Arrow table": data.data.table,
        "a DataFrame": pd.DataFrame(rows, index=range(100, 120)),
        "a DataFrame of nullable types": pd.DataFrame(rows).convert_dtypes(),
        "a Dataset": data,
        "in torch's format": data.with_format("torch"),
        "in numpy's format": data.with_format("numpy"),
        "an IterableDataset": data.to_iterable_dataset(),
        "with named classes": named,
    }


@pytest.mark.parametrize("kind", sources())
def test_rows_in_memory_are_a_task(kind):
    task = loaded_quietly(sources()[kind])
    assert (task.name, task.kind, task.n_labels) == ("task", "classification", 2)
    assert {row["text"]: row["label"] for rows in task.splits.values() for row in rows} == {
        f"text {i}": i % 2 for i in range(20)
    }
    assert task.label_names == (("zebra", "ant") if kind == "with named classes" else ("0", "1"))
    splits = {"training": sources()[kind], "dev": sources()[kind]}
    if kind != "a generator":
        by_split = loaded_quietly(splits)
        assert [len(rows) for rows in by_split.splits.values()] == [20, 20]
    if kind != "with named classes":
        made = Task("mine", train=sources()[kind], validation=sources()[kind])
        assert made.train["label"][:] == [i % 2 for i in range(20)]


@pytest.mark.parametrize("rows", [3, [1, 2], [], "text", np.ones(3)])
def test_what_is_no_table_is_one_line(rows):
    with pytest.raises((TypeError, FileNotFoundError), match="expected") as caught:
        load_task(rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[0, None], [0, float("nan")], [0, "a"], [0, 5]])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_task_of_ones_own_checks_its_labels(kind, labels):
    rows = pd.DataFrame({"text": ["a", "b"], "label": pd.Series(labels, dtype=object)}).to_dict("records")
    metrics = ("accuracy",) if kind == "classification" else ("mse",)
    if kind == "regression" and labels == [0, 5]:
        assert Task("mine", rows, rows, kind="regression", metrics=metrics).n_labels == 1
        return
    with pytest.raises((ValueError, TypeError), match="expected"):
        Task("mine", rows, rows, kind=kind, metrics=metrics)


# --- folders ----------------------------------------------------------------------------------------------------------


def rte(split: str) -> str:
    header = "index\tsentence1\tsentence2" + ("\tlabel" if split != "test" else "")
    labels = ["entailment", "not_entailment"]
    rows = [
        f'{i}\tfirst "{split} {i}\tsecond {i}' + (f"\t{labels[i % 2]}" if split != "test" else "") for i in range(10)
    ]
    return "\n".join([header, *rows])


def cola(split: str) -> str:
    if split == "test":
        return "index\tsentence\n0\tBill whistled past the house."
    return "\n".join(f"gj04\t{i % 2}\t{'*' if i % 2 else ''}\t{split} sentence {i}." for i in range(10))


def sts(split: str) -> str:
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
    scores = "" if split == "test" else "\tscore"
    rows = [
        f"{i}\tmain\tnews\t2012\t{i:04}\tnone\tnone\tfirst {split} {i}\tsecond"
        + ("" if split == "test" else f"\t{i / 2:.3f}")
        for i in range(10)
    ]
    return "\n".join([header + scores, *rows])


def mrpc(split: str) -> str:
    rows = [f'{i % 2}\t{i}\t{i + 1}\t{split} {i}, "he said\t"Quoted" {i}' for i in range(10)]
    return "\ufeff" + "\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows])


@pytest.mark.parametrize(
    ("folder", "content", "expected"),
    [
        ("RTE", rte, ("classification", 2, ("accuracy",), 'first "train 3', "second 3")),
        ("CoLA", cola, ("classification", 2, ("matthews",), "train sentence 3.", None)),
        ("STS-B", sts, ("regression", 1, ("pearson", "spearman"), "first train 3", "second")),
        ("MRPC", mrpc, ("classification", 2, ("accuracy", "f1"), 'train 3, "he said', '"Quoted" 3')),
        ("my own", rte, ("classification", 2, ("accuracy",), 'first "train 3', "second 3")),
    ],
)  # fmt: skip
def test_folders_in_glues_own_layout(tmp_path, folder, content, expected):
    for split in ("train", "dev", "test"):
        if (folder, split) != ("MRPC", "test"):
            written(tmp_path / folder / f"{split}.tsv", content(split))
    written(tmp_path / folder / "README.md", "what this is")
    task = loaded_quietly(tmp_path / folder)
    kind, n_labels, metrics, text, pair = expected
    assert (task.name, task.kind, task.n_labels, task.metrics) == (folder, kind, n_labels, metrics)
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 10, "validation": 10}
    row = task.train[3]
    assert (row["text"], row.get("text_pair")) == (text, pair)
    assert row["label"] == (1.5 if folder == "STS-B" else 1)


def test_folders_with_two_validation_sets_and_shards(tmp_path):
    for name in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"):
        if not name.startswith("test"):
            written(tmp_path / "MNLI" / f"{name}.tsv", rte(name))
    task = loaded_quietly(tmp_path / "MNLI")
    assert list(task.splits) == ["train", "validation", "validation_mismatched"]
    assert task.validation["text"][0] == 'first "dev_matched 0'
    rows = pd.DataFrame({"text": [f"text {i}" for i in range(10)], "label": [0, 1] * 5})
    (tmp_path / "hub").mkdir()
    for shard in range(2):
        rows.to_parquet(tmp_path / "hub" / f"train-0000{shard}-of-00002.parquet")
    task = loaded_quietly(tmp_path / "hub", validation=0.3)
    assert len(task.train) + len(task.validation) == 20


def test_sick_asks_which_label_and_then_loads(tmp_path):
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    for split in ("train", "trial", "test_annotated"):
        rows = [f"{i}\t{split} {i}\tother {i}\t{1 + i / 3:.1f}\t{['NEUTRAL', 'ENTAILMENT'][i % 2]}" for i in range(10)]
        written(tmp_path / "SICK" / f"SICK_{split}.txt", "\n".join([header, *rows]))
    with pytest.raises(ValueError, match=r"label= as a column of 'SICK': pair_ID, .*, got no usual name"):
        load_task(tmp_path / "SICK")
    task = loaded_quietly(tmp_path / "SICK", label="relatedness_score")
    assert (task.kind, list(task.splits)) == ("regression", ["train", "validation", "test"])
    assert loaded_quietly(tmp_path / "SICK", label="entailment_judgment").label_names == ("ENTAILMENT", "NEUTRAL")


@pytest.mark.parametrize("files", [[], ["notes.txt"], ["dev.tsv"], ["train.tsv", "train.csv"]])
def test_folders_that_are_no_task(tmp_path, files):
    for name in files:
        written(tmp_path / "mine" / name, rte("train").replace("\t", "," if name.endswith("csv") else "\t"))
    (tmp_path / "mine").mkdir(exist_ok=True)
    with pytest.raises((FileNotFoundError, ValueError), match=r"expected .* give the path of one file") as caught:
        load_task(tmp_path / "mine")
    assert "\n" not in str(caught.value)
