"""The labelled sentences that come with the package, and how each of them is made.

    python data/build_tasks.py

writes `data/tasks/{sentiment,rating,acceptability}.csv` and the figures in `data/tasks/README.md`. It downloads one
source archive with pip (`vaderSentiment==3.3.2`, MIT) and reads `data/corpus/austen-heldout.txt`. Every choice hangs
on the sha256 of a sentence, so two runs write the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from statistics import mean

from build_corpus import ROOT, fetch, write

TASKS = ROOT / "data" / "tasks"
NEUTRAL = 0.5
"""Snippets with a mean rating within this distance of 0 (on the scale from -4 to 4) have no binary label."""
SPLITS = (("train", 70), ("validation", 15), ("test", 15))
"""Percent of the sentences."""
N_WORDS = range(6, 31)
N_PAIRS = 5000
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)(?<!St\.)(?<![A-Z]\.)\s+(?=[\"“A-Z])")
Row = dict[str, object]


def digest(text: str) -> int:
    """Return a number that depends on nothing but the text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split_of(text: str) -> str:
    """Return the split of a sentence; equal sentences, upper or lower case, always share one."""
    place = digest(text.lower()) % 100
    for split, percent in SPLITS:
        if place < percent:
            return split
        place -= percent
    raise AssertionError("the percents of SPLITS add up to 100")


def rated_snippets() -> dict[str, float]:
    """Return the movie snippets and their mean human ratings; a snippet that occurs twice gets the mean of both."""
    with tarfile.open(fetch("[vV]ader*entiment-*.tar.gz")) as outer:
        inner = next(member for member in outer.getmembers() if member.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
            file = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            lines = file.read().decode("utf-8").splitlines()  # type: ignore[union-attr]
    ratings = defaultdict(list)
    for line in lines:
        _, rating, text = line.split("\t")
        # the file writes a quotation mark as two apostrophes, and lost its dashes to runs of blanks
        ratings[" ".join(text.replace("''", '"').split())].append(float(rating))
    return {text: mean(values) for text, values in ratings.items()}


def sentences_of(text: str) -> Iterator[str]:
    """Yield the plain sentences of a paragraph: 6 to 30 words, whole, without quotation marks or brackets.

    >>> list(sentences_of("Mr. Knightley had a cheerful manner, which always did him good. “Ah!” Really?"))
    ['Mr. Knightley had a cheerful manner, which always did him good.']
    """
    for sentence in SENTENCE_END.split(text):
        whole = re.fullmatch(r"[A-Z][^\"“”()\[\]_*/;:]*[a-z][.!?]", sentence)
        if whole and ".." not in sentence and len(sentence.split()) in N_WORDS:
            yield sentence


# -- corruptions: each takes the words and a generator and returns the corrupted words, or None where it does not fit --

ARTICLES = {"a", "an", "the"}
DETERMINERS = ARTICLES | {"his", "her", "its", "their", "my", "our", "your", "this"}
AGREEMENT = {
    **{"is": "are", "are": "is", "was": "were", "were": "was"},
    **{"has": "have", "have": "has", "does": "do", "doesn't": "don't"},
}
PRONOUNS = {"he": "him", "she": "her", "they": "them", "we": "us", "I": "me"}
FINITE = {
    "is",
    "are",
    "was",
    "were",
    "has",
    "have",
    "had",
    "does",
    "do",
    "did",
    "can",
    "could",
    "will",
    "would",
    "should",
}
# "had had", "that that" and "very very" are English; these, doubled, are not
UNDOUBLED = ARTICLES | {"of", "to", "and", "with", "for", "at", "by", "from", "into", "is", "was", "are", "were", "be"}
PREPOSITIONS = {"of", "with", "in", "for", "as", "by", "into", "at", "from", "on", "is", "was", "be", "like", "has"}
Corruption = Callable[[list[str], random.Random], "list[str] | None"]


def _plain(word: str) -> bool:
    return re.fullmatch(r"[A-Za-z']+", word) is not None


def _at_one(words: list[str], rng: random.Random, fits: Callable[[int], bool], change: Callable) -> list[str] | None:
    """Apply `change(words, i)` at one place that fits; the first and last words keep their capital and full stop."""
    places = [i for i in range(1, len(words) - 1) if fits(i)]
    return change(words, rng.choice(places)) if places else None


def swapped_words(words: list[str], rng: random.Random) -> list[str] | None:
    """Swap a determiner and the word after it: "the film" -> "film the"."""
    return _at_one(
        words,
        rng,
        lambda i: words[i] in DETERMINERS and _plain(words[i + 1]) and words[i + 1] not in DETERMINERS | {"one", "own"},
        lambda words, i: [*words[:i], words[i + 1], words[i], *words[i + 2 :]],
    )


def agreement(words: list[str], rng: random.Random) -> list[str] | None:
    """Give a verb the wrong number: "it is" -> "it are". Conditionals and "there is" are left alone."""
    shaky = {"if", "If", "though", "wish", "as"}

    def fits(i: int) -> bool:
        return (
            words[i] in AGREEMENT
            and _plain(words[i - 1])
            and words[i - 1].lower() not in ("there", "who", "which", "that", "what", "not")
            and not shaky & set(words[max(0, i - 4) : i])
        )

    return _at_one(words, rng, fits, lambda words, i: [*words[:i], AGREEMENT[words[i]], *words[i + 1 :]])


def dropped_determiner(words: list[str], rng: random.Random) -> list[str] | None:
    """Drop "a" or "an" after a preposition or verb: "in a film" -> "in film"."""
    idioms = ("few", "little", "bit", "lot", "good", "great", "many")
    return _at_one(
        words,
        rng,
        lambda i: words[i] in ("a", "an") and words[i - 1] in PREPOSITIONS and words[i + 1] not in idioms,
        lambda words, i: words[:i] + words[i + 1 :],
    )


def dropped_verb(words: list[str], rng: random.Random) -> list[str] | None:
    """Drop a form of "to be" or "to have" after a plain word: "the film is a gem" -> "the film a gem"."""
    verbs = {"is", "are", "was", "were", "has", "had", "be"}
    return _at_one(
        words,
        rng,
        lambda i: words[i] in verbs and _plain(words[i - 1]) and _plain(words[i + 1]),
        lambda words, i: words[:i] + words[i + 1 :],
    )


def doubled_word(words: list[str], rng: random.Random) -> list[str] | None:
    """Double a function word: "of" -> "of of"."""
    return _at_one(
        words, rng, lambda i: words[i] in UNDOUBLED, lambda words, i: [*words[: i + 1], words[i], *words[i + 1 :]]
    )


def pronoun_case(words: list[str], rng: random.Random) -> list[str] | None:
    """Put a subject pronoun into the object case: "they are" -> "them are"."""
    return _at_one(
        words,
        rng,
        lambda i: words[i] in PRONOUNS and words[i + 1] in FINITE and words[i - 1] not in FINITE,
        lambda words, i: [*words[:i], PRONOUNS[words[i]], *words[i + 1 :]],
    )


def shuffled_span(words: list[str], rng: random.Random) -> list[str] | None:
    """Shuffle five plain words so that no two neighbours stay neighbours in their order."""

    def fits(i: int) -> bool:
        return i + 5 < len(words) and all(map(_plain, words[i : i + 5])) and len(set(words[i : i + 5])) == 5

    def shuffle(words: list[str], i: int) -> list[str]:
        order = list(range(5))
        while any(b - a == 1 for a, b in zip([-1, *order], [*order, 5], strict=True)):
            rng.shuffle(order)
        return [*words[:i], *(words[i + j] for j in order), *words[i + 5 :]]

    return _at_one(words, rng, fits, shuffle)


# with weights, as the kinds that fit seldom would otherwise be hardly any of the data
CORRUPTIONS: dict[Corruption, int] = {
    swapped_words: 1,
    agreement: 2,
    dropped_determiner: 4,
    dropped_verb: 1,
    doubled_word: 1,
    pronoun_case: 16,
    shuffled_span: 1,
}


def corrupted(sentence: str) -> tuple[str, str] | None:
    """Return the sentence with one corruption, and its kind, both drawn from the sentence's own hash."""
    rng = random.Random(digest(sentence))
    words = sentence.split()
    results = {corrupt: corrupt(words, rng) for corrupt in CORRUPTIONS}
    fitting = [corrupt for corrupt, result in results.items() if result is not None]
    if not fitting:
        return None
    (chosen,) = rng.choices(fitting, [CORRUPTIONS[corrupt] for corrupt in fitting])
    return " ".join(results[chosen] or ()), chosen.__name__.replace("_", " ")


# -- the three tasks ---------------------------------------------------------------------------------------------------


def sentiment(ratings: dict[str, float]) -> list[Row]:
    """Return the snippets that people found clearly positive (1) or negative (0)."""
    return [
        {"text": text, "label": int(rating > 0), "split": split_of(text)}
        for text, rating in ratings.items()
        if abs(rating) > NEUTRAL
    ]


def rating(ratings: dict[str, float]) -> list[Row]:
    """Return all snippets with their mean rating, from -4 (most negative) to 4."""
    return [{"text": text, "label": f"{value:.4f}", "split": split_of(text)} for text, value in ratings.items()]


def acceptability(ratings: dict[str, float]) -> list[Row]:
    """Return pairs of a real sentence (1) and its corrupted twin (0), both in the real one's split."""
    austen = (ROOT / "data" / "corpus" / "austen-heldout.txt").read_text(encoding="utf-8").splitlines()
    real = {sentence for text in (*ratings, *austen) for sentence in sentences_of(text)}
    pairs = [(sentence, made) for sentence in sorted(real, key=digest) if (made := corrupted(sentence)) is not None]
    rows: list[Row] = []
    for sentence, (wrong, kind) in pairs[:N_PAIRS]:
        split = split_of(sentence)
        rows.append({"text": sentence, "label": 1, "corruption": "none", "split": split})
        rows.append({"text": wrong, "label": 0, "corruption": kind, "split": split})
    # twins apart, so that a reader of the file, or a loader that forgets to shuffle, does not get them side by side
    return sorted(rows, key=lambda row: digest(f"order {row['text']}"))


def as_csv(rows: list[Row]) -> str:
    """Return the rows as csv, with a header."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def bag_of_words(name: str, rows: list[Row]) -> str:
    """Return what a linear model on words, and on words and word pairs, reaches on the validation rows."""
    from scipy.stats import pearsonr
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import accuracy_score, matthews_corrcoef

    metric, score = {
        "sentiment": ("accuracy", accuracy_score),
        "rating": ("Pearson", lambda labels, predictions: pearsonr(labels, predictions).statistic),
        "acceptability": ("Matthews", matthews_corrcoef),
    }[name]
    parts = [[row for row in rows if row["split"] == split] for split in ("train", "validation")]
    labels = [[float(str(row["label"])) for row in part] for part in parts]
    reached = []
    for n in (1, 2):
        words = TfidfVectorizer(ngram_range=(1, n), sublinear_tf=True, token_pattern=r"\S+")
        inputs = words.fit_transform(row["text"] for row in parts[0])
        model = (Ridge() if name == "rating" else LogisticRegression(C=4, max_iter=1000)).fit(inputs, labels[0])
        reached.append(score(labels[1], model.predict(words.transform(row["text"] for row in parts[1]))))
    return f"| {name} | {metric} | {reached[0]:.2f} | {reached[1]:.2f} |"


def figures(tables: dict[str, list[Row]]) -> str:
    """Return the counts and checksums of all tables as Markdown."""
    lines = ["| task | split | rows | by class, or mean and range |", "|---|---|---:|---|"]
    for name, rows in tables.items():
        for split, _ in SPLITS:
            labels = [row["label"] for row in rows if row["split"] == split]
            if name == "rating":
                values = [float(str(label)) for label in labels]
                what = f"mean {mean(values):.3f}, {min(values):.2f} to {max(values):.2f}"
            else:
                what = ", ".join(f"label {label}: {count:,}" for label, count in sorted(Counter(labels).items()))
            lines.append(f"| {name} | {split} | {len(labels):,} | {what} |")
    kinds = Counter(row["corruption"] for row in tables["acceptability"] if row["label"] == 0)
    lines += ["", "Corruptions: " + ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) + ".", ""]
    lines += ["What a linear model reaches on the validation rows without knowing any English:", ""]
    lines += ["| task | metric | words | words and word pairs |", "|---|---|---:|---:|"]
    lines += [*(bag_of_words(name, rows) for name, rows in tables.items()), "", "```"]
    lines += [f"{hashlib.sha256(as_csv(rows).encode()).hexdigest()}  {name}.csv" for name, rows in tables.items()]
    return "\n".join([*lines, "```"])


def main() -> None:
    """Write the three tables and their figures."""
    ratings = rated_snippets()
    tables = {make.__name__: make(ratings) for make in (sentiment, rating, acceptability)}
    for name, rows in tables.items():
        write(TASKS / f"{name}.csv", as_csv(rows).splitlines())
    readme = TASKS / "README.md"
    begin, end = "<!-- figures: written by build_tasks.py -->", "<!-- end of figures -->"
    before, _, rest = readme.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    write(readme, f"{before}{begin}\n{figures(tables)}\n{end}{after}".splitlines())
    print(figures(tables))


if __name__ == "__main__":
    main()
