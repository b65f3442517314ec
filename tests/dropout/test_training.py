"""Rates in the training steps of anyone's own training: a plain loop, `accelerate`, `Trainer`, LoRA."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gdrop_viz import guided_dropout, measured_dropout
from tests.dropout.stand_ins import made_up_fisher
from tests.zoo import ModelCase, build


@pytest.fixture
def used(monkeypatch) -> list[float]:
    """Every probability that reaches `F.dropout` while training, recorded by other means than the package's."""
    rates: list[float] = []
    original = F.dropout

    def recording(input, p=0.5, training=True, inplace=False):
        if training and torch.is_grad_enabled():
            rates.append(p)
        return original(input, p, training, inplace)

    monkeypatch.setattr(F, "dropout", recording)
    return rates


@pytest.fixture
def case() -> ModelCase:
    # eager attention passes through F.dropout, so the record holds every site
    return build("GPT2", attention="eager")


def steps_of(rates: list[float], schedule) -> int:
    """How many whole training steps the record holds, each with exactly the schedule's rates in its order."""
    expected = list(schedule.rates.values())
    assert rates
    assert rates == expected * (len(rates) // len(expected))
    return len(rates) // len(expected)


def test_plain_loop(case, used):
    model = case.model
    schedule = guided_dropout(model, made_up_fisher(model), lower=0.01, upper=0.3)
    schedule.apply(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(**case.batch).loss.backward()
        optimizer.step()
    assert steps_of(used, schedule) == 2


def test_accelerate(case, used):
    accelerate = pytest.importorskip("accelerate")
    schedule = guided_dropout(case.model, made_up_fisher(case.model), lower=0.01, upper=0.3)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(case.model, torch.optim.SGD(case.model.parameters(), lr=1e-3))
    with schedule.applied(model):  # also after `prepare`
        model.train()
        for _ in range(2):
            with accelerator.accumulate(model):
                accelerator.backward(model(**case.batch).loss)
                optimizer.step()
        assert steps_of(used, schedule) == 2
    assert set(measured_dropout(model).values()) == {0.1}


@pytest.mark.parametrize("lora", [False, True])
def test_trainer(case, used, tmp_path, lora):
    transformers = pytest.importorskip("transformers")
    model = case.model
    schedule = guided_dropout(model, made_up_fisher(model), lower=0.01, upper=0.3)
    if lora:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        model = peft.get_peft_model(model, config)
    schedule.apply(model)
    rows = [{name: value[i] for name, value in case.batch.items()} for i in range(3)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=3, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    assert steps_of(used, schedule) == 2
    assert measured_dropout(model) == schedule.rates
