"""Position-wise ends: found where predicted positions suffice, and nowhere before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

import gdrop_viz as gv
from gdrop_viz.models.facts import facts_of
from tests.zoo import EOS, FIRST_WORD, VOCABULARY, ModelCase, build


def found(case) -> list[str]:
    gv.sequence_losses(case.model, case.batch)
    return [name for name, module in case.model.named_modules() if module is facts_of(case.model)["position-wise end"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Bert", "bert.encoder.layer.1.attention.output"),
        ("DistilBert", "distilbert.transformer.layer.1.sa_layer_norm"),
        ("ModernBert", "model.final_norm"),  # norms first: the last residual goes around everything else
        ("Albert", "predictions"),  # its layers are one module, called twice
        ("GPT2", "lm_head"),
        ("T5", "lm_head"),
    ],
)
def test_the_earliest_module_after_the_last_mixing_of_positions(name, expected):
    assert found(build(name)) == [expected]


def test_a_mixing_too_weak_to_be_seen_in_the_logits_is_noticed():
    case = build("Bert")
    transform = case.model.cls.predictions.transform
    plain = transform.forward
    transform.forward = lambda hidden: plain(hidden + 1e-12 * hidden.roll(1, dims=1))
    assert found(case) == []


def test_the_last_layer_sees_the_predicted_positions_only():
    case, rows = build("Bert"), []
    layers = case.model.bert.encoder.layer
    gv.sequence_losses(case.model, case.batch)
    for layer in layers:
        layer.intermediate.register_forward_hook(lambda module, args, out: rows.append(out.shape[:-1].numel()))
    gv.sequence_losses(case.model, case.batch)
    assert rows == [case.batch["labels"].numel(), int((case.batch["labels"] != -100).sum())]


def test_a_term_with_a_row_per_sequence_keeps_the_sequences_apart():
    # fed as one long sequence, a shift of each sequence's own would not fit
    case = build("Bert")
    output = case.model.bert.encoder.layer[1].output
    plain = output.forward
    shift = torch.randn(3, 1, 16)
    output.forward = lambda hidden, residual: plain(hidden, residual) + shift[: len(hidden)]
    assert found(case) == ["cls"]
    labels = case.batch["labels"]
    logits = case.model(**{key: value for key, value in case.batch.items() if key != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(logits[2], labels[2], ignore_index=-100)
    torch.testing.assert_close(gv.sequence_losses(case.model, case.batch)[2], expected)


def classifier(name: str) -> ModelCase:
    case = build(name, head="ForSequenceClassification", num_labels=3)
    return replace(case, batch={**case.batch, "labels": torch.tensor([0, 2, 1])})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Bert", "bert.encoder.layer.1.attention.output"),
        ("DistilBert", "distilbert.transformer.layer.1.sa_layer_norm"),
        ("Roberta", "roberta.encoder.layer.1.attention.output"),
        ("GPT2", None),  # reads the last word
        ("Llama", None),
    ],
)
def test_a_classifier_that_reads_the_first_position_is_fed_no_other(name, expected):
    case = classifier(name)
    assert found(case) == ([] if expected is None else [expected])
    logits = case.model(**{key: value for key, value in case.batch.items() if key != "labels"}).logits
    expected_losses = torch.nn.functional.cross_entropy(logits, case.batch["labels"], reduction="none")
    torch.testing.assert_close(gv.sequence_losses(case.model, case.batch), expected_losses)


def test_a_classifier_of_the_last_word_is_not_taken_in_by_sequences_of_one_word():
    case = classifier("GPT2")
    short = {key: value.clone() for key, value in case.batch.items()}
    short["input_ids"][:, 1:] = case.model.config.pad_token_id
    short["attention_mask"][:, 1:] = 0
    assert found(replace(case, batch=short)) == []


def test_a_classifier_that_wants_an_end_mark_at_the_end_gets_whole_sequences():
    case = classifier("Bart")
    ids = case.batch["input_ids"].repeat(1, 2)  # longer than a trial
    ids = ids.masked_fill(ids == EOS, FIRST_WORD)
    ids[:, -1] = EOS
    longer = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": case.batch["labels"]}
    assert found(replace(case, batch=longer)) == []


# -- models whose end is not what it seems -----------------------------------------------------------------------------

SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    pad_token_id=0,
)
CANINE = dict(
    num_hash_functions=4, num_hash_buckets=16, num_labels=3, downsampling_rate=4, local_transformer_stride=4,
    upsampling_kernel_size=4, max_position_embeddings=64,
)  # fmt: skip
REFORMER = dict(
    attention_head_size=8, local_attn_chunk_length=4, feed_forward_size=24, axial_pos_embds=False, hash_seed=0,
    attn_layers=["local", "local"],
)  # fmt: skip
PERCEIVER = dict(
    num_latents=8, d_latents=16, d_model=16, num_blocks=1, num_self_attends_per_block=1, num_self_attention_heads=2,
    num_cross_attention_heads=2, qk_channels=16, v_channels=16, max_position_embeddings=8,
)  # fmt: skip


def odd(kind: str, **settings) -> ModelCase:
    """A model with words of one length, every one of them labelled: more rows than a sequence has positions."""
    config = getattr(transformers, kind.split("For")[0].split("Model")[0] + "Config")(**{**SIZES, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config).eval()
        ids = torch.randint(FIRST_WORD, VOCABULARY - 1, (4, 8))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    if "Classification" in kind:
        batch["labels"] = torch.tensor([0, 2, 1, 1])
    return ModelCase(kind, model, batch, "mlm")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("LukeForMaskedLM", dict(entity_vocab_size=10, entity_emb_size=8, max_position_embeddings=32)),
        ("CanineForSequenceClassification", CANINE),
        ("ReformerForMaskedLM", dict(REFORMER, is_decoder=False)),
        ("ReformerModelWithLMHead", dict(REFORMER, is_decoder=True, chunk_size_lm_head=4)),
        ("PerceiverForMaskedLM", PERCEIVER),
        ("LongformerForMaskedLM", dict(attention_window=4, max_position_embeddings=40)),
    ],
)
def test_what_is_fed_gives_the_logits_of_the_whole(kind, settings):
    case = odd(kind, **settings)
    batch = dict(case.batch)
    if kind.startswith("Perceiver"):
        batch["inputs"] = batch.pop("input_ids")
    losses = gv.sequence_losses(case.model, batch)
    logits = case.model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    labels = batch["labels"]
    if kind == "ReformerModelWithLMHead":
        logits, labels = logits[:, :-1], labels[:, 1:]
    axes = (0, 2, 1) if logits.dim() == 3 else (0, 1)
    expected = torch.nn.functional.cross_entropy(logits.permute(axes), labels, reduction="none")
    torch.testing.assert_close(losses, expected.mean(1) if expected.dim() == 2 else expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Bert", "GPT2"])
def test_an_end_that_keeps_its_shape_is_given_up(name, monkeypatch):
    """On some batch no gather happens, although the trial said it would: the whole is fed, then and later."""
    case = build(name)
    expected = gv.sequence_losses(build(name).model, case.batch)
    gv.sequence_losses(case.model, case.batch)
    elsewhere = torch.nn.Linear(2, 2)  # a module that is never called
    monkeypatch.setitem(facts_of(case.model), "position-wise end", elsewhere)
    torch.testing.assert_close(gv.sequence_losses(case.model, case.batch), expected)
    assert facts_of(case.model)["position-wise end"] is None
