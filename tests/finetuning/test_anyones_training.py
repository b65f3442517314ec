"""Guided dropout in trainings that know nothing of this package: three lines, and the rates hold to the end."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import gdrop_viz as gv
from gdrop_viz.finetuning.classifier import build_classifier
from gdrop_viz.finetuning.encoding import PaddedBatches, encode

TRAINER_SILENT = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}


@pytest.fixture
def fisher(tiny_bert):
    """Scores that fall with depth, without the work of estimating them."""
    names = [name for name, _ in tiny_bert.named_parameters()]
    return gv.Fisher.from_means(pd.Series({name: 1.0 / (1 + i) for i, name in enumerate(names)}))


@pytest.fixture
def rows(tiny_lm, toy_task):
    return encode(tiny_lm, toy_task.train, max_length=64)


@pytest.fixture
def collate(tiny_lm):
    return PaddedBatches(tiny_lm)


@pytest.fixture
def model(tiny_lm, toy_task):
    """A classifier as `from_pretrained` gives it."""
    return build_classifier(tiny_lm, toy_task)


def check(model, schedule):
    """The rates that a training-mode forward uses are the schedule's, and they are not all the same."""
    measured = gv.measured_dropout(model)
    assert {site: measured[site] for site in schedule.rates} == pytest.approx(schedule.rates)
    assert min(schedule.rates.values()) == 0.0
    assert max(schedule.rates.values()) == 0.1


def test_trainer(tiny_bert, fisher, model, rows, collate, tmp_path):
    from transformers import Trainer, TrainingArguments

    schedule = gv.guided_dropout(tiny_bert, fisher, lower=0.0, upper=0.1)
    schedule.apply(model)
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), num_train_epochs=1, remove_unused_columns=False, **TRAINER_SILENT),
        train_dataset=rows,
        data_collator=collate,
    )

    before = model.classifier.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, model.classifier.weight)
    check(trainer.model, schedule)


def test_plain_loop(tiny_bert, fisher, model, rows, collate):
    schedule = gv.guided_dropout(tiny_bert, fisher, lower=0.0, upper=0.1)
    schedule.apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)

    losses = []
    model.train()
    for _ in range(4):
        for batch in DataLoader(rows, batch_size=8, shuffle=True, collate_fn=collate):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert sum(losses[-12:]) < sum(losses[:12])
    check(model, schedule)


def test_only_for_a_while(tiny_bert, fisher, model, rows, collate):
    schedule = gv.guided_dropout(tiny_bert, fisher, lower=0.0, upper=0.1)
    before = gv.measured_dropout(model)
    with schedule.applied(model):
        model.train()(**collate(rows[:4])).loss.backward()
        check(model, schedule)
    assert gv.measured_dropout(model) == before


def test_accelerate(tiny_bert, fisher, model, rows, collate):
    from accelerate import Accelerator

    schedule = gv.guided_dropout(tiny_bert, fisher, lower=0.0, upper=0.1)
    schedule.apply(model)
    accelerator = Accelerator(cpu=True)

    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loader = DataLoader(rows, batch_size=16, collate_fn=collate)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    prepared.train()
    for batch in loader:
        accelerator.backward(prepared(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
    check(accelerator.unwrap_model(prepared), schedule)


@pytest.mark.parametrize("order", ["schedule first", "adapters first"])
def test_lora(tiny_bert, fisher, model, rows, collate, order):
    from peft import LoraConfig, get_peft_model

    schedule = gv.guided_dropout(tiny_bert, fisher, lower=0.0, upper=0.1)
    adapters = LoraConfig(r=2, target_modules=["query", "value"], lora_dropout=0.0, task_type="SEQ_CLS")
    if order == "schedule first":
        schedule.apply(model)
    wrapped = get_peft_model(model, adapters)
    if order == "adapters first":
        schedule.apply(wrapped)

    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], 1e-2)
    wrapped.train()
    before = {name: p.detach().clone() for name, p in wrapped.named_parameters()}
    wrapped(**collate(rows[:8])).loss.backward()
    optimizer.step()
    moved = {name for name, p in wrapped.named_parameters() if not torch.equal(before[name], p)}
    assert moved
    assert all("lora" in name or "classifier" in name for name in moved)
    check(wrapped, schedule)


def test_adapters_own_dropout_is_left_alone(tiny_bert, fisher, model):
    from peft import LoraConfig, get_peft_model

    schedule = gv.guided_dropout(tiny_bert, fisher, lower=0.0, upper=0.1)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["query"], lora_dropout=0.33, task_type="SEQ_CLS"))
    schedule.apply(wrapped)
    rates = {module.p for name, module in wrapped.named_modules() if "lora_dropout.default" in name}
    assert rates == {0.33}
    check(wrapped, schedule)


def test_token_classifiers_and_question_answerers(tiny_bert, fisher):
    from transformers import BertForQuestionAnswering, BertForTokenClassification

    schedule = gv.guided_dropout(tiny_bert, fisher, lower=0.0, upper=0.1)
    for model_class in (BertForTokenClassification, BertForQuestionAnswering):
        check(schedule.apply(model_class(tiny_bert.config)), schedule)
