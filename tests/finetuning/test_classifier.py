from __future__ import annotations

import copy

import pytest
import torch

from gdrop_viz.finetuning.classifier import build_classifier, pretrained_digest
from gdrop_viz.models.pretrained import Pretrained
from tests.conftest import random_bert, word_tokenizer
from tests.unchanged import unchanged
from tests.zoo import build

FAMILIES = ["Bert", "DistilBert", "ModernBert", "GPT2", "Llama", "T5", "Bart"]


def pretrained(name):
    case = build(name)
    return Pretrained(case.model, word_tokenizer(), objective=case.objective, name=name), case


@pytest.mark.parametrize("name", FAMILIES)
def test_the_backbone_computes_what_the_language_model_computes(name, toy_task):
    lm, case = pretrained(name)
    classifier = build_classifier(lm, toy_task).eval()
    backbone = getattr(lm.model, "model", lm.model.base_model) if name == "Bart" else lm.model.base_model
    inputs = {key: value for key, value in case.batch.items() if key in ("input_ids", "attention_mask")}
    if case.objective == "span":
        inputs["decoder_input_ids"] = inputs["input_ids"]
        expected = lm.model(**inputs, output_hidden_states=True).decoder_hidden_states[-1]
        found = classifier.base_model(**inputs).last_hidden_state
    else:
        expected = backbone(**inputs).last_hidden_state
        found = classifier.base_model(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Bert", "GPT2", "T5"])
def test_the_head_depends_on_the_seed_alone(name, toy_task):
    lm, _ = pretrained(name)
    torch.manual_seed(1)
    first = build_classifier(lm, toy_task, seed=3).state_dict()
    torch.manual_seed(2)
    second = build_classifier(lm, toy_task, seed=3).state_dict()
    other = build_classifier(lm, toy_task, seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    changed = {key.split(".")[0] for key in first if not torch.equal(first[key], other[key])}
    if name == "Bert":
        # the pooler is not trained by masked language modelling, so it is new as well
        changed = {key for key in first if not torch.equal(first[key], other[key])}
        assert changed == {"bert.pooler.dense.weight", "classifier.weight"}
    else:
        assert changed == {{"GPT2": "score", "T5": "classification_head"}[name]}


def test_the_model_and_the_generators_stay(tiny_lm, toy_task):
    with unchanged(tiny_lm.model), torch.no_grad():
        for parameter in build_classifier(tiny_lm, toy_task).parameters():
            parameter.fill_(7.0)


def test_half_precision_models_are_trained_in_single_precision(toy_task):
    lm = Pretrained(random_bert().to(torch.bfloat16), word_tokenizer())
    classifier = build_classifier(lm, toy_task)
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}
    name = "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(
        classifier.base_model.state_dict()[name], lm.model.base_model.state_dict()[name].float(), rtol=0, atol=0
    )


class TestChecksum:
    def test_it_is_the_same_for_the_same_model_and_for_a_copy_from_disk(self, tiny_lm, tmp_path):
        from gdrop_viz.models.pretrained import load_pretrained

        tiny_lm.save(tmp_path / "model")
        assert pretrained_digest(load_pretrained(tmp_path / "model")) == pretrained_digest(tiny_lm)

    def test_every_weight_counts(self, tiny_lm):
        before = pretrained_digest(tiny_lm)
        weight = tiny_lm.model.bert.encoder.layer[1].output.dense.weight
        with torch.no_grad():
            weight[3, 4] += 1e-6
        assert pretrained_digest(tiny_lm) != before

    def test_the_state_of_the_tokenizer_does_not_count_but_its_words_do(self, tiny_lm):
        before = pretrained_digest(tiny_lm)
        tiny_lm.tokenizer(["a cat", "a"], padding=True, truncation=True, max_length=4)
        assert pretrained_digest(tiny_lm) == before
        tiny_lm.tokenizer.add_tokens(["unheard"])
        assert pretrained_digest(tiny_lm) != before

    def test_the_mode_does_not_count(self, tiny_lm):
        before = pretrained_digest(tiny_lm)
        tiny_lm.model.train()
        assert pretrained_digest(tiny_lm) == before


class TestErrors:
    def test_no_transformers_model(self, toy_task):
        with pytest.raises(ValueError, match="transformers config, got Linear"):
            build_classifier(Pretrained(torch.nn.Linear(2, 2), word_tokenizer()), toy_task)

    def test_no_classifier_of_this_architecture(self, toy_task):
        lm, _ = pretrained("Pegasus")
        with pytest.raises(ValueError, match="no sequence classifier for model type 'pegasus'"):
            build_classifier(lm, toy_task)

    def test_weights_and_config_that_disagree(self, tiny_lm, toy_task):
        tiny_lm.model.config.vocab_size += 1
        with pytest.raises(ValueError, match=r"expected embeddings.word_embeddings.weight of shape \(\d+, 16\)"):
            build_classifier(tiny_lm, toy_task)

    @pytest.mark.parametrize("name", ["Bert", "GPT2", "T5", "DistilBert"])
    def test_a_module_that_was_replaced(self, name, toy_task):
        """A classifier is built from the config, which does not know of it."""
        lm, case = pretrained(name)
        build_classifier(lm, toy_task)
        layers = [module for key, module in case.model.named_modules() if ".1." in key or ".layer.1" in key]
        replaced = [
            (module, child)
            for module in layers
            for child, inner in module.named_children()
            if "activation" in type(inner).__module__
        ]
        setattr(*replaced[0], torch.nn.Tanh())
        with pytest.raises(ValueError, match="expected a model that computes what its config says"):
            build_classifier(lm, toy_task)

    @pytest.mark.parametrize("change", ["a layer more", "layers in another order", "a hook"])
    def test_another_computation_with_the_same_weights(self, tiny_lm, toy_task, change):
        layers = tiny_lm.model.bert.encoder.layer
        if change == "a layer more":
            layers.append(copy.deepcopy(layers[0]))
        elif change == "layers in another order":
            layers[0].forward, layers[1].forward = layers[1].forward, layers[0].forward
        else:
            layers[1].output.register_forward_hook(lambda module, inputs, output: 2 * output)
        with pytest.raises(ValueError, match="expected a model that computes what its config says"):
            build_classifier(tiny_lm, toy_task)


@pytest.mark.parametrize("name", ["Bert", "GPT2", "T5"])
def test_no_hook_stays_in_the_model(name, toy_task):
    lm, case = pretrained(name)
    build_classifier(lm, toy_task)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())
