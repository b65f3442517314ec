"""Completions: what a language model writes where a word is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from gdrop_viz.base.checks import finite_weights, instance, whole
from gdrop_viz.base.state import preserved_modes, preserved_rng
from gdrop_viz.models.hub import quiet_libraries
from gdrop_viz.text.corruption import sentinels

if TYPE_CHECKING:
    import pandas as pd

    from gdrop_viz.models.pretrained import Pretrained

BLANK = "{}"


def completions(lm: Pretrained, text: str, *, n: int = 5, max_new_tokens: int = 8) -> pd.DataFrame:
    """Return the `n` most likely ways to fill the one blank `{}` of `text`, each as the model was pretrained to.

    A masked model fills in one token, given both sides. A causal model goes on from what stands before the blank and
    does not see what comes after it. A span-corruption model fills in a span, given both sides.

    Parameters
    ----------
    lm
        The pretrained model; it is left as it was.
    text
        One blank, written `{}`, and text around it; a causal model needs text before it.
    n
        How many, best first. Longer ones than a token are found by a beam search with `n` beams, so they are likely
        ones, not for certain the likeliest.
    max_new_tokens
        The length of a continuation, and the longest span, in tokens.

    Returns
    -------
    A table with the columns "completion", "text" (the sentence with it) and "probability" (of the whole completion,
    given the text), best first.

    Raises
    ------
    ValueError
        If `text` has not exactly one blank, `n` or `max_new_tokens` is below 1, the tokenizer has no mask token or
        sentinels, or a weight is NaN or infinite.

    >>> import gdrop_viz as gv
    >>> table = gv.completions(gv.load_pretrained("bert-mini"), "she was very {} to see her sister again .", n=3)
    >>> table.columns.tolist(), len(table), bool(table["probability"].is_monotonic_decreasing)
    (['completion', 'text', 'probability'], 3, True)
    """
    from gdrop_viz.models.pretrained import Pretrained

    instance(lm, Pretrained, "lm", "load_pretrained")
    if not isinstance(text, str) or text.count(BLANK) != 1:
        raise ValueError(f"expected text with exactly one blank {BLANK}, as in 'she was {BLANK} .', got {text!r}")
    whole(n, "n")
    whole(max_new_tokens, "max_new_tokens")
    finite_weights(lm.model.named_parameters())
    find = {"mlm": _masked, "clm": _continued, "span": _spanned}[lm.objective]
    with preserved_modes(lm.model), preserved_rng(), quiet_libraries(), torch.no_grad():
        found = find(lm, text, n, max_new_tokens)
    return _table(text, found, sees_the_end=lm.objective != "clm")


def _masked(lm: Pretrained, text: str, n: int, max_new_tokens: int) -> list[tuple[str, float]]:
    mask = lm.tokenizer.mask_token
    if mask is None:
        raise ValueError(f"expected a tokenizer with a mask token, got that of {lm.name!r} with no mask token")
    inputs = _encoded(lm, text.replace(BLANK, mask))
    at = (inputs["input_ids"][0] == lm.tokenizer.mask_token_id).nonzero()[0].item()
    best = lm.model(**inputs).logits[0, at].float().softmax(-1).topk(n)
    return [
        (lm.tokenizer.decode([token]).strip(), probability)
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _continued(lm: Pretrained, text: str, n: int, max_new_tokens: int) -> list[tuple[str, float]]:
    before = text.partition(BLANK)[0].rstrip()  # a token of these vocabularies begins with its blank
    if not before:
        raise ValueError(
            f"expected text before the blank, got {text!r}; a causal model goes on from what stands before the blank"
        )
    inputs = _encoded(lm, before)
    return _beams(lm, inputs, n, max_new_tokens, skip=inputs["input_ids"].shape[1], ends=[])


def _spanned(lm: Pretrained, text: str, n: int, max_new_tokens: int) -> list[tuple[str, float]]:
    first, second, *_ = [*sentinels(lm.tokenizer.get_vocab()), None, None]
    if first is None or second is None:
        raise ValueError(
            f"expected a tokenizer with sentinel tokens <extra_id_0>, <extra_id_1>, ..., got that of {lm.name!r} with "
            "no sentinel tokens"
        )
    inputs = _encoded(lm, text.replace(BLANK, lm.tokenizer.convert_ids_to_tokens(first)))
    config: Any = lm.model.config
    start = torch.tensor([[config.decoder_start_token_id, first]], device=inputs["input_ids"].device)
    ends = [second, lm.tokenizer.eos_token_id]
    return _beams(lm, inputs | {"decoder_input_ids": start}, n, max_new_tokens, skip=2, ends=ends)


def _encoded(lm: Pretrained, text: str) -> dict[str, torch.Tensor]:
    encoded = lm.tokenizer(text, return_tensors="pt")
    device = next(lm.model.parameters()).device
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}


def _beams(
    lm: Pretrained, inputs: dict[str, torch.Tensor], n: int, max_new_tokens: int, *, skip: int, ends: list[int]
) -> list[tuple[str, float]]:
    """Return the texts after the first `skip` tokens of a beam search, with the probability of all their tokens.

    A beam stops at one of `ends`; without any, all are equally long, or the shortest would be the likeliest.
    """
    pad, model = lm.tokenizer.pad_token_id, cast(Any, lm.model)
    found = model.generate(
        **inputs,
        num_beams=n,
        num_return_sequences=n,
        max_new_tokens=max_new_tokens,
        min_new_tokens=None if ends else max_new_tokens,
        do_sample=False,
        length_penalty=0.0,  # beams compete by their probability, not by its mean per token
        eos_token_id=ends or lm.tokenizer.eos_token_id,
        pad_token_id=lm.tokenizer.eos_token_id if pad is None else pad,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    kept = [[token for token in row[skip:].tolist() if token not in ends] for row in found.sequences]
    texts = lm.tokenizer.batch_decode(kept, skip_special_tokens=True)
    scores = found.sequences_scores if n > 1 else _greedy_scores(lm, found)
    return [(text.strip(), score) for text, score in zip(texts, scores.exp().tolist(), strict=True)]


def _greedy_scores(lm: Pretrained, found: Any) -> torch.Tensor:
    """Return the log-probability (1,) of a single beam, which `generate` decodes greedily and leaves unscored."""
    model = cast(Any, lm.model)
    return model.compute_transition_scores(found.sequences, found.logits, normalize_logits=True).sum(1)


def _table(text: str, found: list[tuple[str, float]], *, sees_the_end: bool) -> pd.DataFrame:
    import pandas as pd

    before, _, after = text.partition(BLANK)
    rows = []
    for completion, probability in found:
        whole = before + completion + after if sees_the_end else f"{before.rstrip()} {completion}"
        rows.append({"completion": completion, "text": whole, "probability": probability})
    return pd.DataFrame(rows).sort_values("probability", ascending=False, ignore_index=True)
