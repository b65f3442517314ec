"""Per-sequence losses against the models' own full logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gdrop_viz as gv
from gdrop_viz.models.losses import is_causal, predictions
from tests.zoo import ZOO, build


@pytest.mark.parametrize("name", ZOO)
def test_losses_are_means_over_the_predicted_tokens(name):
    case = build(name)
    losses = gv.sequence_losses(case.model, case.batch)
    inputs = {key: value for key, value in case.batch.items() if key != "labels"}
    labels = case.batch["labels"]
    if case.objective == "span":
        inputs["decoder_input_ids"] = case.model.prepare_decoder_input_ids_from_labels(labels=labels)
    logits = case.model(**inputs).logits
    if case.objective == "clm":
        logits, labels = logits[:, :-1], labels[:, 1:]
    assert is_causal(case.model) == (case.objective == "clm")
    for n, row in enumerate(labels):
        expected = F.cross_entropy(logits[n], row, ignore_index=-100)
        torch.testing.assert_close(losses[n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_the_head_sees_the_predicted_positions_only(name):
    case = build(name)
    found = predictions(case.model, case.batch)
    rows = []
    head = case.model.get_output_embeddings()
    # MobileBERT's output layer is a plain product with its weight
    watched = head if name != "MobileBert" else case.model.cls.predictions.transform
    handle = watched.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[:-1].numel()))
    predictions(case.model, case.batch)
    handle.remove()
    assert rows == [len(found.labels)]
    assert len(found.labels) < case.batch["labels"].numel()


def test_a_head_that_mixes_positions_is_fed_everything():
    case = build("Bert")
    transform = case.model.cls.predictions.transform
    plain = transform.forward
    transform.forward = lambda hidden: plain(hidden + hidden.mean(1, keepdim=True))
    batch = {key: value[:1] for key, value in case.batch.items()}  # without padding
    losses = gv.sequence_losses(case.model, batch)
    logits = case.model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    expected = F.cross_entropy(logits[0], batch["labels"][0], ignore_index=-100)
    torch.testing.assert_close(losses[0], expected)
    # the same mean takes in the padding, so the loss of a padded sequence is none of its own
    with pytest.raises(ValueError, match="do not depend on padding"):
        gv.sequence_losses(case.model, case.batch)


def test_the_models_mode_is_kept():
    case = build("Bert")
    case.model.train()
    torch.manual_seed(0)
    noisy = gv.sequence_losses(case.model, case.batch)
    assert case.model.training
    assert not torch.allclose(noisy, gv.sequence_losses(case.model.eval(), case.batch))


def test_other_models_bring_their_loss():
    layer, batch = nn.Linear(3, 1), {"input": torch.randn(4, 3), "labels": torch.randn(4)}
    loss = lambda outputs, batch: (outputs.squeeze(-1) - batch["labels"]).square()  # noqa: E731
    torch.testing.assert_close(
        gv.sequence_losses(layer, batch, loss=loss), (layer(batch["input"]).squeeze(-1) - batch["labels"]).square()
    )


def test_missing_labels_and_logits_are_named():
    case = build("Bert")
    with pytest.raises(ValueError, match='no "labels"'):
        gv.sequence_losses(case.model, {"input_ids": case.batch["input_ids"]})
    with pytest.raises(ValueError, match="model output with logits"):
        gv.sequence_losses(case.model.bert, {**case.batch, "labels": torch.tensor([0, 1, 0])})
