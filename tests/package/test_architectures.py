"""A spread of the sweep over the text models of `transformers` (`make architectures` tries all of them).

Types whose code differs where ours could be mistaken: tables of positions that look like look-ups by sequence,
experts, layouts with the sequence second, labels that are shifted elsewhere, losses that depend on padding, buffers.
"""

from __future__ import annotations

import pytest

from tests.architectures.shrunken import Pair
from tests.architectures.table import PARTS
from tests.architectures.trials import trial

_PADDED = {"loss", "scores"}
# pair -> the parts that are refused in one line, and rightly so
SPREAD: dict[Pair, set[str]] = {
    Pair("mpnet", "masked"): set(),
    Pair("xlm", "masked"): set(),
    Pair("flaubert", "masked"): set(),
    Pair("luke", "masked"): set(),
    Pair("ibert", "masked"): set(),
    Pair("esm", "masked"): set(),
    Pair("convbert", "masked"): _PADDED,  # a convolution reads the padding
    Pair("fnet", "masked"): _PADDED,  # so does a Fourier transform
    Pair("nystromformer", "masked"): _PADDED,
    Pair("roformer", "masked"): set(),
    Pair("bert-generation", "causal"): set(),
    Pair("gpt_neo", "causal"): set(),
    Pair("gemma3", "causal"): set(),
    Pair("doge", "causal"): set(),
    Pair("aria_text", "causal"): set(),
    Pair("bailing_hybrid", "causal"): set(),
    Pair("bart", "causal"): {"loss"},  # positions count from the first column: padding on the left
    Pair("xlnet", "causal"): {"loss", "scores", "surface", "trace"},  # reads both ways
    Pair("t5", "sequence to sequence"): set(),
    Pair("longt5", "sequence to sequence"): set(),
    Pair("switch_transformers", "sequence to sequence"): set(),
    Pair("m2m_100", "sequence to sequence"): set(),
    Pair("blenderbot", "sequence to sequence"): set(),
    Pair("biogpt", "classification"): set(),
    Pair("umt5", "classification"): set(),
}


@pytest.mark.parametrize("pair", SPREAD, ids=str)
def test_right_or_refused(pair):
    found = trial(pair)
    assert not found["built"].startswith("no"), found
    assert not {part: outcome for part, outcome in found.items() if "WRONG" in outcome or "RAW" in outcome}
    assert {part for part in PARTS if "refused" in found[part]} == SPREAD[pair], found
