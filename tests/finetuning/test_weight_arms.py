"""Arms on the weights, against closed forms; and arms that act during training."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import TrainerCallback

import gdrop_viz as gv
from gdrop_viz.finetuning import EWCArm, FrozenArm, MixoutArm, SparseArm, build_classifier, fine_tune
from gdrop_viz.finetuning.arms import resolve_arm
from gdrop_viz.finetuning.encoding import PaddedBatches, encode
from gdrop_viz.finetuning.weight_arms import pretrained_parameters
from gdrop_viz.models.backbone import backbone_of
from gdrop_viz.models.pretrained import Pretrained
from tests.conftest import word_tokenizer
from tests.zoo import build

QUICK = {"epochs": 1, "learning_rate": 1e-2, "batch_size": 16, "weight_decay": 0.5}


def family(name):
    case = build(name)
    return Pretrained(case.model, word_tokenizer(), objective=case.objective, name=name)


def made_up_fisher(lm):
    """Random scores in the shapes of the model."""
    rng = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(p.shape, generator=rng) for name, p in lm.model.named_parameters()}
    means = pd.Series({name: float(score.mean()) for name, score in scores.items()})
    empty = gv.Fisher.from_means(means)
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    return gv.Fisher(means, empty.standard_errors, 1, "given", "element", shapes, scores, empty.history)


@pytest.fixture
def trained(monkeypatch):
    """Every classifier that a run trains, with a copy of it before its training."""
    from gdrop_viz.finetuning import train

    seen = []

    def building(*args, **kwargs):
        classifier = build_classifier(*args, **kwargs)
        seen.append((classifier, copy.deepcopy(classifier)))
        return classifier

    monkeypatch.setattr(train, "build_classifier", building)
    return seen


@pytest.fixture
def batch(tiny_lm, toy_task):
    return PaddedBatches(tiny_lm)(encode(tiny_lm, toy_task.train.select(range(6)), max_length=32))


def moved(classifier):
    """The classifier some way from its pretrained weights, as training leaves it."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))


def quiet_head(lm):
    lm.model.config.classifier_dropout = 0.0


class TestElasticWeightConsolidation:
    @pytest.mark.parametrize("resolution", ["element", "tensor"])
    def test_loss_and_gradient_are_those_of_the_penalty(self, tiny_lm, toy_task, batch, resolution):
        quiet_head(tiny_lm)
        fisher = made_up_fisher(tiny_lm)
        if resolution == "tensor":
            fisher = gv.Fisher.from_means(fisher.means)
        plain = build_classifier(tiny_lm, toy_task).train()
        gv.uniform_dropout(plain, 0.0).apply(plain)
        penalised = build_classifier(tiny_lm, toy_task).train()
        EWCArm(fisher, 3.0)(penalised)
        start = {name: p.detach().clone() for name, p in plain.named_parameters()}
        moved(plain), moved(penalised)

        losses = [model(**batch).loss for model in (plain, penalised)]
        for loss in losses:
            loss.backward()
        expected = 0.0
        others = dict(plain.named_parameters())
        for name, parameter in penalised.named_parameters():
            # the head and BERT's pooler are new: nothing is known of them, and nothing holds them
            score = fisher.means.get(name) if fisher.scores is None else fisher.scores.get(name)
            away = parameter.detach() - start[name]
            pull = torch.zeros(()) if score is None else 3.0 * score * away
            expected += 0.0 if score is None else float(1.5 * (score * away.square()).sum())
            got = parameter.grad - others[name].grad
            # a difference of two float32 gradients
            torch.testing.assert_close(got, pull.expand_as(got), rtol=1e-3, atol=1e-5)
        assert losses[1].item() - losses[0].item() == pytest.approx(expected, rel=1e-4)
        assert expected > 0.1
        assert penalised.eval()(**batch).loss.item() == pytest.approx(plain.eval()(**batch).loss.item(), rel=1e-6)

    def test_without_strength_it_is_no_arm_at_all_and_with_much_nothing_moves(self, tiny_lm, toy_task, trained):
        plain = fine_tune(tiny_lm, toy_task, None, **QUICK)
        none = fine_tune(tiny_lm, toy_task, EWCArm(made_up_fisher(tiny_lm), 0.0), **QUICK)
        assert plain["value"].tolist() == none["value"].tolist()
        fine_tune(tiny_lm, toy_task, EWCArm(made_up_fisher(tiny_lm), 1e4), **QUICK)

        def distance(pair):
            name = "bert.encoder.layer.0.intermediate.dense.weight"
            return (pair[0].get_parameter(name) - pair[1].get_parameter(name)).norm()

        assert distance(trained[2]) < 0.5 * distance(trained[0])

    @pytest.mark.parametrize("name", ["GPT2", "T5"])
    def test_names_of_other_families(self, name, toy_task):
        lm = family(name)
        classifier = build_classifier(lm, toy_task)
        found = pretrained_parameters(classifier, [key for key, _ in lm.model.named_parameters()])
        body = backbone_of(classifier)
        assert set(map(id, found.values())) == {
            id(p) for key, p in body.model.named_parameters() if body.relative(key) is not None
        }
        own = dict(lm.model.named_parameters())
        assert all(torch.equal(own[key], parameter) for key, parameter in found.items())


class TestFrozenAndSparse:
    @pytest.mark.parametrize("name", ["Bert", "GPT2", "T5"])
    @pytest.mark.parametrize("arm", [SparseArm, FrozenArm])
    @pytest.mark.parametrize("by", ["element", "tensor"])
    def test_frozen_elements_are_bit_identical_and_others_are_trained(self, name, arm, by, toy_task, trained):
        lm = family(name)
        selection = gv.top_k(made_up_fisher(lm), 0.3, by=by)
        fine_tune(lm, toy_task, arm(selection), **QUICK)
        (after, before), *_ = trained
        names = [key for key, _ in lm.model.named_parameters()]
        first, last = pretrained_parameters(before, names), pretrained_parameters(after, names)
        moved = total = 0
        for key, parameter in last.items():
            selected = selection.mask(key)
            frozen = selected if arm is FrozenArm else ~selected
            assert torch.equal(parameter[frozen], first[key][frozen]), key
            moved += int((parameter[~frozen] != first[key][~frozen]).sum())
            total += int((~frozen).sum())
        # words that are in no sentence have no gradient, and biases that cancel out hardly one
        assert moved > 0.5 * total > 0
        head = {id(p) for p in backbone_of(after).base.parameters()}
        new = [key for key, p in after.named_parameters() if id(p) not in head]
        assert new
        assert any(not torch.equal(after.get_parameter(key), before.get_parameter(key)) for key in new)

    def test_the_gradient_that_is_clipped_is_that_of_the_trained_elements(self, tiny_lm, toy_task, batch):
        selection = gv.random_k(tiny_lm.model, 0.1, seed=0)
        quiet_head(tiny_lm)
        plain, sparse = (build_classifier(tiny_lm, toy_task).train() for _ in range(2))
        gv.uniform_dropout(plain, 0.0).apply(plain)
        SparseArm(selection)(sparse)
        for model in (plain, sparse):
            model(**batch).loss.backward()
        for name, parameter in sparse.named_parameters():
            whole = plain.get_parameter(name).grad
            if name in selection.shapes:
                whole = whole * selection.mask(name)
            got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.equal(got, whole), name

    def test_everything_and_nothing(self, tiny_lm, toy_task, trained):
        everything = gv.top_k(made_up_fisher(tiny_lm), 1.0)
        plain = fine_tune(tiny_lm, toy_task, None, **QUICK)
        whole = fine_tune(tiny_lm, toy_task, SparseArm(everything), **QUICK)
        assert plain["value"].tolist() == whole["value"].tolist()
        fine_tune(tiny_lm, toy_task, FrozenArm(everything), **QUICK)
        after, before = trained[2]
        kept = [key for key, p in after.named_parameters() if torch.equal(p, before.get_parameter(key))]
        assert set(kept) >= {key for key in everything.shapes if key.startswith("bert.")}

    def test_a_selection_of_scores_from_elsewhere(self, tiny_lm, toy_task, trained):
        means = made_up_fisher(tiny_lm).means
        selection = gv.top_k(gv.Fisher.from_means(means), 3, by="tensor")
        fine_tune(tiny_lm, toy_task, FrozenArm(selection), **QUICK)
        after, before = trained[0]
        frozen = [key for key in selection.names if key.startswith("bert.")]
        assert frozen
        assert all(torch.equal(after.get_parameter(key), before.get_parameter(key)) for key in frozen)

    def test_a_selection_of_another_model_is_refused(self, tiny_lm, toy_task):
        other = gv.top_k(made_up_fisher(family("GPT2")), 0.1)
        with pytest.raises(ValueError, match="make the scores or the selection from the pretrained model"):
            fine_tune(tiny_lm, toy_task, SparseArm(other), **QUICK)
        wider = Pretrained(build("Bert").model, word_tokenizer())
        with pytest.raises(ValueError, match="of shape"):
            fine_tune(tiny_lm, toy_task, EWCArm(made_up_fisher(wider), 1.0), **QUICK)


class TestMixout:
    def test_its_limit_is_training_without_it(self, tiny_lm, toy_task):
        plain = fine_tune(tiny_lm, toy_task, 0.1, **QUICK)
        mixed = fine_tune(tiny_lm, toy_task, MixoutArm(0.0, dropout=0.1), **QUICK)
        assert plain["value"].tolist() == mixed["value"].tolist()
        other = fine_tune(tiny_lm, toy_task, MixoutArm(0.5), **QUICK)
        assert plain["value"].tolist() != other["value"].tolist()

    def mixed_weights(self, layer, arm_rate, draws):
        """The weight that each training forward of a linear layer really uses, read from its output."""
        identity = torch.eye(layer.in_features)
        with torch.no_grad():
            return torch.stack([(layer(identity) - layer.bias).T for _ in range(draws)])

    def test_each_element_is_mixed_as_defined_and_the_mean_is_the_weight(self, tiny_lm, toy_task):
        rate, draws = 0.3, 2000
        classifier = build_classifier(tiny_lm, toy_task)
        MixoutArm(rate)(classifier)
        layer = classifier.bert.encoder.layer[0].intermediate.dense
        start = layer.weight.detach().clone()
        classifier.train()
        # at the pretrained weights there is nothing to mix
        torch.testing.assert_close(self.mixed_weights(layer, rate, 1)[0], start, rtol=1e-5, atol=1e-6)
        moved(classifier)
        weight = layer.weight.detach().clone()
        torch.manual_seed(0)
        used = self.mixed_weights(layer, rate, draws)
        kept, replaced = (weight - rate * start) / (1 - rate), start
        is_kept = (used - kept).abs() < 1e-5
        is_replaced = (used - replaced).abs() < 1e-5
        assert bool((is_kept | is_replaced).all())
        assert float(is_replaced.float().mean()) == pytest.approx(rate, abs=0.01)
        # of each element: sqrt(rate / (1 - rate)) |θ - θ0| per draw; five standard errors over 512 elements
        error = np.sqrt(rate / (1 - rate) / draws) * (weight - start).abs()
        assert bool(((used.mean(dim=0) - weight).abs() <= 5 * error + 1e-5).all())
        assert torch.equal(layer.weight, weight), "the parameter itself stays"
        classifier.eval()
        torch.testing.assert_close(self.mixed_weights(layer, rate, 1)[0], weight, rtol=1e-5, atol=1e-6)

    def test_the_gradient_reaches_the_elements_that_are_kept(self, tiny_lm, toy_task):
        classifier = build_classifier(tiny_lm, toy_task).train()
        MixoutArm(0.4)(classifier)
        layer = classifier.bert.encoder.layer[1].output.dense
        layer(torch.ones(1, layer.in_features)).sum().backward()
        values = {round(float(value), 5) for value in layer.weight.grad.unique()}
        assert values == {0.0, round(1 / 0.6, 5)}

    def test_all_matrices_of_the_layers_and_nothing_else(self, tiny_lm, toy_task):
        classifier = build_classifier(tiny_lm, toy_task).train()
        MixoutArm(0.4)(classifier)
        names = {name for name, module in classifier.named_modules() if module._forward_pre_hooks}
        linear = {name for name, module in classifier.named_modules() if isinstance(module, nn.Linear)}
        assert names == {name for name in linear if ".layer." in name}
        assert [name for name, _ in classifier.named_parameters()] == [
            name for name, _ in build_classifier(tiny_lm, toy_task).named_parameters()
        ]

    @pytest.mark.parametrize("name", ["GPT2", "T5"])
    def test_other_families_train_with_it(self, name, toy_task):
        table = fine_tune(family(name), toy_task, MixoutArm(0.2), **QUICK)
        assert np.isfinite(table["value"]).all()

    def test_after_an_error_the_layer_is_as_before(self, tiny_lm, toy_task):
        classifier = build_classifier(tiny_lm, toy_task).train()
        MixoutArm(0.4)(classifier)
        layer = classifier.bert.encoder.layer[0].output.dense
        with pytest.raises(RuntimeError):
            layer(torch.ones(1, layer.in_features + 1))
        assert "weight" not in layer.__dict__
        assert isinstance(layer.weight, nn.Parameter)


class Falling:
    """An arm whose rate falls from epoch to epoch."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, model):
        gv.uniform_dropout(model, self.rates[0]).apply(model)

    def callbacks(self, classifier):
        return [Fall(self.rates)]


class Fall(TrainerCallback):
    def __init__(self, rates):
        self.rates = rates

    def on_epoch_begin(self, args, state, control, model, **kwargs):
        gv.uniform_dropout(model, self.rates[round(state.epoch or 0)]).apply(model)
        model.train()

    def on_epoch_end(self, args, state, control, model, **kwargs):
        rates = gv.measured_dropout(model)
        RATES_SEEN.append(rates["encoder.layer.0.output.dropout"])


RATES_SEEN: list[float] = []


class TestCallbacks:
    def test_a_rate_that_changes_over_time(self, tiny_lm, toy_task):
        RATES_SEEN.clear()
        falling = fine_tune(tiny_lm, toy_task, Falling([0.3, 0.05]), epochs=2)
        assert pytest.approx([0.3, 0.05]) == RATES_SEEN
        RATES_SEEN.clear()
        constant = fine_tune(tiny_lm, toy_task, Falling([0.3, 0.3]), epochs=2)
        values = [table.set_index(["epoch", "split", "metric"])["value"] for table in (falling, constant)]
        assert values[0][1, "train", "loss"] == values[1][1, "train", "loss"], "the first epoch is the same"
        assert values[0][2, "train", "loss"] != values[1][2, "train", "loss"]

    def test_what_is_no_method_is_refused(self, tiny_lm, toy_task):
        def arm(model):
            pass

        arm.callbacks = [Fall([0.1])]
        with pytest.raises(TypeError, match="expected an arm's callbacks as a method"):
            gv.compare(tiny_lm, toy_task, {"arm": arm}, progress=False)
        arm.callbacks = lambda classifier: ["fall"]
        with pytest.raises(TypeError, match="arm 'arm': expected each of an arm's callbacks as a TrainerCallback"):
            gv.compare(tiny_lm, toy_task, {"arm": arm}, progress=False)


def test_what_determines_them_is_in_their_description(tiny_lm, toy_task):
    classifier = build_classifier(tiny_lm, toy_task)
    fisher, top = made_up_fisher(tiny_lm), gv.top_k(made_up_fisher(tiny_lm), 0.1)
    other = gv.Fisher.from_means(fisher.means)
    arms = [
        EWCArm(fisher, 1.0), EWCArm(fisher, 2.0), EWCArm(other, 1.0), EWCArm(fisher, 1.0, dropout=0.1),
        SparseArm(top), FrozenArm(top), SparseArm(gv.top_k(fisher, 0.2)), SparseArm(top, dropout=0.1),
        MixoutArm(0.1), MixoutArm(0.2), MixoutArm(0.1, dropout=gv.WeightDecayArm(0.2)), 0.0,
    ]  # fmt: skip
    described = [str(resolve_arm(arm, classifier).description) for arm in arms]
    assert len(set(described)) == len(arms)
    again = [str(resolve_arm(pickle.loads(pickle.dumps(arm)), classifier).description) for arm in arms]
    assert again == described
    assert resolve_arm(arms[-2], classifier).training_arguments == {"weight_decay": 0.2}
    assert resolve_arm(arms[3], classifier).mean_rate == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixoutArm(1.0), "expected rate as a number at least 0 and below 1, got 1.0"),
        (lambda: EWCArm("fisher", 1.0), "expected fisher as a Fisher, as fisher_information gives it, got str"),
        (lambda: EWCArm(gv.Fisher.from_means({"a": 1.0}), -1.0), "expected strength as a number at least 0, got -1.0"),
        (lambda: SparseArm(0.1), "expected selection as a Selection, as top_k gives it, got float"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
