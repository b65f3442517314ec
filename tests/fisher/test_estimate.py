"""Streaming, settings, restarts and errors of `fisher_information`, on a tiny BERT."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gdrop_viz as gv
from gdrop_viz.fisher import run as estimation
from gdrop_viz.fisher.run import Run
from gdrop_viz.fisher.sums import IncompleteSum, Sums
from tests.unchanged import unchanged


def run(model, batches, **settings):
    return gv.fisher_information(model, batches, progress=False, **settings)


def assert_same(a, b, *, exactly=False):
    assert a.n_sequences == b.n_sequences
    for name, score in a.scores.items():
        if exactly:
            assert torch.equal(score, b.scores[name]), name
        else:
            torch.testing.assert_close(score, b.scores[name], rtol=1e-4, atol=1e-12 + 1e-6 * float(score.max()))


def test_hooks_equal_the_loop_and_batching_does_not_matter(tiny_lm, tiny_batches):
    hooks = run(tiny_lm.model, tiny_batches, method="batched")
    loop = run(tiny_lm.model, tiny_batches, method="loop")
    assert_same(hooks, loop)
    singles = [
        {name: value[n : n + 1] for name, value in batch.items()}
        for batch in tiny_batches
        for n in range(len(batch["labels"]))
    ]
    assert_same(hooks, run(tiny_lm.model, singles))
    assert hooks.n_sequences == len(singles) == 10


def test_it_is_a_mean_of_squares_and_no_square_of_a_mean(tiny_lm, tiny_batches):
    model, batch = tiny_lm.model, tiny_batches[0]
    fisher = run(model, [batch])
    gv.sequence_losses(model, batch).mean().backward()
    name = "bert.encoder.layer.0.output.dense.weight"
    of_the_mean = dict(model.named_parameters())[name].grad ** 2
    assert float(fisher.scores[name].mean()) > 1.5 * float(of_the_mean.mean())


def test_the_model_is_left_as_it_was(tiny_lm, tiny_batches):
    model = tiny_lm.model.train()
    next(model.parameters()).requires_grad_(False)
    kept = dict(model.named_parameters())["cls.predictions.bias"]
    kept.grad = torch.ones_like(kept)
    with unchanged(model):
        run(model, tiny_batches)


@pytest.mark.parametrize("at", range(1, 7))
def test_state_is_restored_when_the_nth_call_is_interrupted(tiny_lm, tiny_batches, at):
    model, calls = tiny_lm.model, 0
    forward = model.bert.forward

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    model.train()
    model.bert.forward = interrupted
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        run(model, tiny_batches, method="auto")


def test_stop_gives_what_was_seen(tiny_lm, tiny_batches, monkeypatch):
    stop, add_batch = threading.Event(), Run.add_batch

    def stopping(self, batch, index):
        add_batch(self, batch, index)
        if index == 1:
            stop.set()

    monkeypatch.setattr(Run, "add_batch", stopping)
    with pytest.warns(RuntimeWarning, match="Stopped after 8 of 10 sequences"):
        partial = run(tiny_lm.model, tiny_batches, method="batched", stop=stop)
    monkeypatch.undo()
    assert_same(partial, run(tiny_lm.model, tiny_batches[:2]))


def test_a_killed_run_continues_to_the_same_bits(tiny_lm, tiny_batches, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    whole = run(tiny_lm.model, tiny_batches, estimator="sampled", draws=2)
    taken = []
    take = Run.add_batch

    def dying(self, batch, index):
        if len(taken) == 2:
            raise MemoryError("killed")
        taken.append(index)
        take(self, batch, index)

    monkeypatch.setattr(Run, "add_batch", dying)
    settings = dict(estimator="sampled", draws=2, checkpoint=path, checkpoint_seconds=0)
    with pytest.raises(MemoryError):
        run(tiny_lm.model, tiny_batches, **settings)
    monkeypatch.undo()
    resumed = []
    monkeypatch.setattr(Run, "add_batch", lambda self, b, i: (resumed.append(i), take(self, b, i)))
    fisher = run(tiny_lm.model, tiny_batches, **settings)
    assert resumed == [2]
    assert_same(fisher, whole, exactly=True)
    assert np.array_equal(fisher.standard_errors, whole.standard_errors)
    assert fisher.history.equals(whole.history)
    again = run(tiny_lm.model, tiny_batches, **settings)
    assert resumed == [2]
    assert_same(again, whole, exactly=True)


def test_weights_of_equal_sums_are_other_weights(tiny_lm, tiny_batches, tmp_path):
    path = tmp_path / "run.safetensors"
    run(tiny_lm.model, tiny_batches[:1], checkpoint=path)
    weight = dict(tiny_lm.model.named_parameters())["bert.encoder.layer.0.output.dense.weight"]
    with torch.no_grad():
        weight.copy_(weight.flip(0))  # another model of the same numbers
    with pytest.raises(ValueError, match="another run"):
        run(tiny_lm.model, tiny_batches[:1], checkpoint=path)


def test_a_checkpoint_of_another_run_is_refused(tiny_lm, tiny_batches, tmp_path):
    path = tmp_path / "run.safetensors"
    run(tiny_lm.model, tiny_batches, checkpoint=path)
    with pytest.raises(ValueError, match="another run"):
        run(tiny_lm.model, tiny_batches[:2], checkpoint=path)
    with torch.no_grad():
        next(tiny_lm.model.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="another run"):
        run(tiny_lm.model, tiny_batches, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        run(tiny_lm.model, tiny_batches, checkpoint=path)


def test_out_of_memory_halves_the_batch(tiny_lm, tiny_batches, monkeypatch, caplog):
    whole = run(tiny_lm.model, tiny_batches)
    add_batched = estimation.add_batched

    def limited(model, parameters, part, *others, **settings):
        if len(part) > 1:
            raise torch.OutOfMemoryError("a batch too large")
        return add_batched(model, parameters, part, *others, **settings)

    monkeypatch.setattr(estimation, "add_batched", limited)
    halved = run(tiny_lm.model, tiny_batches, method="batched")
    assert "does not fit into memory" in caplog.text
    assert_same(halved, whole)
    np.testing.assert_allclose(halved.history, whole.history, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("failing_draw", [1, 0])
def test_out_of_memory_in_the_middle_of_backward_counts_nothing_twice(tiny_lm, tiny_batches, monkeypatch, failing_draw):
    settings = dict(method="batched", estimator="sampled", draws=2)
    whole = run(tiny_lm.model, tiny_batches, **settings)
    add_uses, calls = Sums.add_uses, []

    def failing(self, name, uses, row):
        if len(self.batch_norms) == len(uses[0].offsets) - 1 and name.endswith("layer.0.attention.self.key.weight"):
            calls.append(name)
            if len(calls) % 2 == failing_draw:
                raise torch.OutOfMemoryError("no room for this one")
        add_uses(self, name, uses, row)

    monkeypatch.setattr(Sums, "add_uses", failing)
    assert_same(run(tiny_lm.model, tiny_batches, **settings), whole)
    assert calls


def test_out_of_memory_in_the_middle_of_a_sum_is_refused(tiny_lm, tiny_batches, monkeypatch):
    def half(uses, squares):
        squares.add_(1)
        raise torch.OutOfMemoryError("no room for the rest")

    monkeypatch.setattr("gdrop_viz.fisher.sums.add_squares", half)
    with pytest.raises(IncompleteSum, match=r"broke off .no room for the rest.; make smaller batches"):
        run(tiny_lm.model, tiny_batches, method="batched")


def test_the_old_word_for_batched_still_works(tiny_lm, tiny_batches):
    with pytest.warns(DeprecationWarning, match='now called method="batched"'):
        old = run(tiny_lm.model, tiny_batches, method="hooks")
    assert_same(old, run(tiny_lm.model, tiny_batches, method="batched"), exactly=True)


class Exotic(nn.Module):
    """A matrix product that no rule covers, beside ordinary layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.odd = nn.Parameter(torch.randn(6, 6))
        self.last = nn.Linear(6, 1)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.last(torch.einsum("ntd,de->nte", hidden, self.odd)).squeeze(-1)


def squared_error(outputs, batch):
    return (outputs - batch["labels"]).square().mean(1)


def test_a_parameter_without_a_rule_goes_through_the_loop_alone():
    model = Exotic()
    batch = {"x": torch.randn(5, 3, 4), "labels": torch.randn(5, 3)}
    with pytest.warns(RuntimeWarning, match=r"1 of 5 parameter tensors go through the loop.*odd"):
        fisher = run(model, [batch], loss=squared_error)
    assert list(fisher.looped) == ["odd"]
    assert_same(fisher, run(model, [batch], loss=squared_error, method="loop"))


class TimeMajor(nn.Module):
    """Axis 0 is time: with as many steps as sequences no shape tells, so only the self-check can."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1).sum(-1)


def test_the_self_check_finds_a_layout_that_no_rule_foresaw():
    model = TimeMajor()
    batch = {"x": torch.randn(4, 4, 3), "labels": torch.randn(4, 4)}
    loop = run(model, [batch], loss=squared_error, method="loop")
    wrong = run(model, [batch], loss=squared_error, method="batched")
    assert not torch.allclose(wrong.scores["layer.weight"], loop.scores["layer.weight"], rtol=0.01)
    with pytest.warns(RuntimeWarning, match="differ from the loop"):
        right = run(model, [batch], loss=squared_error)
    assert_same(right, loop)


@pytest.mark.parametrize("labels", [1, 3])
def test_classifiers_and_regression_heads(labels):
    from transformers import BertConfig, BertForSequenceClassification

    from tests.conftest import WORDS

    torch.manual_seed(0)
    size = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = BertForSequenceClassification(BertConfig(vocab_size=5 + len(WORDS), num_labels=labels, **size)).double()
    batch = {"input_ids": torch.randint(5, 20, (4, 6)), "attention_mask": torch.ones(4, 6, dtype=torch.long)}
    batch["labels"] = torch.randn(4).double() if labels == 1 else torch.tensor([0, 2, 1, 2])
    fisher = run(model, [batch])
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for n in range(4):
        model.eval().zero_grad()
        one = {name: value[n : n + 1] for name, value in batch.items()}
        model(**one).loss.backward()
        for name, p in model.named_parameters():
            expected[name] += p.grad**2 / 4
    for name, score in expected.items():
        torch.testing.assert_close(fisher.scores[name], score, rtol=1e-6, atol=1e-18)


def test_only_the_named_parameters(tiny_lm, tiny_batches):
    names = ["bert.encoder.layer.1.output.dense.weight", "cls.predictions.bias"]
    fisher = run(tiny_lm.model, tiny_batches, parameters=names)
    whole = run(tiny_lm.model, tiny_batches)
    assert list(fisher.scores) == names
    for name in names:
        torch.testing.assert_close(fisher.scores[name], whole.scores[name])
    with pytest.raises(ValueError, match=r"names of the model's parameters .*got no.such.weight"):
        run(tiny_lm.model, tiny_batches, parameters=["no.such.weight"])


def test_half_precision_weights_give_the_scores_of_single_precision(tiny_lm, tiny_batches):
    reference = run(tiny_lm.model, tiny_batches)
    half = run(tiny_lm.model.to(torch.bfloat16), tiny_batches, method="batched")
    assert all(score.dtype == torch.float32 for score in half.scores.values())
    # bfloat16 keeps 8 bits: gradients are off by about 1 %, their squares' mean over a tensor by a few percent
    large = reference.means[reference.means > 1e-3 * reference.means.max()].index
    assert (abs(half.means[large] / reference.means[large] - 1) < 0.1).all()


def test_stop_when_stable_ends_early_and_says_so(tiny_lm):
    from tests.conftest import sentences

    batches = gv.pretraining_batches(tiny_lm, sentences(600), n_sequences=400, batch_size=8, max_length=12)
    fisher = run(tiny_lm.model, batches, stop_when_stable=0.9, resolution="tensor", method="batched")
    assert fisher.ended == "stable at confidence 0.9"
    assert 16 <= fisher.n_sequences < 400
    table = fisher.stability()
    assert table["sequences"].iloc[-1] == fisher.n_sequences
    assert table["correlation with all"].iloc[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(estimator="expected"), ValueError, "estimator to be one of"),
        (dict(resolution="layer"), ValueError, "resolution to be one of"),
        (dict(method="fast"), ValueError, "method to be one of"),
        (dict(draws=0), ValueError, "draws as a whole number"),
        (dict(draws=2), ValueError, "draws nothing at random"),
        (dict(estimator="exact"), ValueError, "for classifiers"),
        (dict(loss=3), TypeError, "expected loss as a callable"),
        (dict(loss=squared_error, estimator="sampled"), ValueError, "take 'empirical'"),
        (dict(stop_when_stable=1.5), ValueError, "a confidence, as a number above 0 and below 1"),
        (dict(batches=[]), ValueError, "at least one batch, got none"),
        (dict(batches="text"), TypeError, "expected batches as dicts of tensors"),
        (dict(batches=[torch.ones(2)]), TypeError, "dict of tensors"),
        (dict(batches=[{"input_ids": torch.ones(1, 3, dtype=torch.long)}]), ValueError, 'no "labels"'),
        (dict(model="bert"), TypeError, "torch.nn.Module or a Pretrained"),
        (dict(model=nn.ReLU()), ValueError, "no parameters"),
    ],
)
def test_bad_arguments_are_named_before_any_work(tiny_lm, tiny_batches, change, error, message):
    settings = {"model": tiny_lm.model, "batches": tiny_batches, **change}
    with pytest.raises(error, match=message):
        run(settings.pop("model"), settings.pop("batches"), **settings)


def test_bad_batches_are_named(tiny_lm, tiny_batches):
    good = tiny_batches[0]
    for change, message in (
        ({"labels": torch.full_like(good["labels"], -100)}, "Sequence 0 of batch 1 predicts no token"),
        ({"labels": torch.full_like(good["labels"], 999)}, "batch 1 has labels outside"),
        ({"input_ids": torch.full_like(good["input_ids"], 999)}, "batch 1 holds the token id 999"),
        ({"input_ids": torch.zeros(4, 99, dtype=torch.long)}, r"99 tokens, the model has 64 positions"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tiny_lm.model, [good, {**good, **change}])


def test_weights_and_losses_that_are_not_finite_are_named(tiny_lm, tiny_batches):
    model = tiny_lm.model
    bias = dict(model.named_parameters())["cls.predictions.bias"]
    with torch.no_grad():
        bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinity in 'cls.predictions.bias'"):
        run(model, tiny_batches)
    loss = lambda outputs, batch: outputs.logits.sum((1, 2)) * float("inf")  # noqa: E731
    with torch.no_grad():
        bias[3] = 0
    with pytest.raises(ValueError, match=r"finite losses, got .* of batch 0"):
        run(model, tiny_batches, loss=loss, method="batched")


def test_a_loss_of_the_wrong_shape_is_named(tiny_lm, tiny_batches):
    with pytest.raises(ValueError, match="must return one loss per sequence"):
        run(tiny_lm.model, tiny_batches, loss=lambda outputs, batch: outputs.logits.mean())


def test_save_and_load(tiny_lm, tiny_batches, tmp_path):
    fisher = run(tiny_lm.model, tiny_batches)
    path = tmp_path / "fisher.safetensors"
    fisher.save(path)
    loaded = gv.Fisher.load(path, model=tiny_lm.model)
    assert_same(loaded, fisher, exactly=True)
    assert loaded.means.equals(fisher.means)
    assert loaded.standard_errors.equals(fisher.standard_errors)
    assert loaded.text_checksum == tiny_batches.checksum
    from tests.conftest import random_bert

    with pytest.raises(ValueError, match=r"shape .* the model's parameter"):
        gv.Fisher.load(path, model=random_bert(hidden_size=8))
    with pytest.raises(ValueError, match=r"'bert\.encoder\.layer\.1\..* is no parameter"):
        gv.Fisher.load(path, model=random_bert(num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"nothing for 'bert\.encoder\.layer\.2\."):
        gv.Fisher.load(path, model=random_bert(num_hidden_layers=3))
    # scores of some parameters only are meant to leave out the others
    some = run(tiny_lm.model, tiny_batches, parameters=["cls.predictions.bias"])
    some.save(path)
    assert list(gv.Fisher.load(path, model=tiny_lm.model).means.index) == ["cls.predictions.bias"]
    with pytest.raises(FileNotFoundError, match=r"Fisher\.save"):
        gv.Fisher.load(tmp_path / "none")


def test_damaged_files_are_refused_with_one_line(tiny_lm, tiny_batches, tmp_path):
    path = tmp_path / "fisher.safetensors"
    run(tiny_lm.model, tiny_batches, resolution="element").save(path)
    whole = path.read_bytes()
    for share in range(0, 100, 7):
        path.write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(ValueError, match=r"fisher\.safetensors"):
            gv.Fisher.load(path)
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="which is something else"):
        gv.Fisher.load(path)


def test_from_means_and_its_limits():
    fisher = gv.Fisher.from_means({"h.0.attn.c_attn.weight": 1.0, "h.1.mlp.c_fc.weight": 3.0})
    assert fisher.scores is None
    assert fisher.grouped("layer")["mean"].tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="needs a score per parameter"):
        fisher.located(0.1)
    for bad, message in (({}, "at least one"), ({"a": -1.0}, "not negative"), ({"a": "x"}, "expected {parameter")):
        with pytest.raises(ValueError, match=message):
            gv.Fisher.from_means(bad)


def test_concentration_by_hand():
    fisher = gv.Fisher.from_means({"a.weight": 6.0, "b.weight": 2.0})
    curve = fisher.concentration()
    assert curve["information"].iloc[-1] == pytest.approx(1)
    assert np.interp(0.5, curve["parameters"], curve["information"]) == pytest.approx(0.75)
    # two equal parts carrying 3/4 and 1/4: the Gini coefficient of (6, 2) is 1/4
    assert curve.attrs["gini"] == pytest.approx(0.25)


def test_views_agree_with_the_scores(tiny_lm, tiny_batches):
    fisher = run(tiny_lm.model, tiny_batches)
    total = sum(float(score.double().sum()) for score in fisher.scores.values())
    located = fisher.located(0.01)
    count = sum(score.numel() for score in fisher.scores.values())
    assert located["chosen"].sum() == pytest.approx(0.01 * count, abs=1)
    by_layer = fisher.grouped("layer")
    assert by_layer["share"].sum() == pytest.approx(1)
    layer = [name for name in fisher.scores if ".layer.1." in name]
    share = sum(float(fisher.scores[name].double().sum()) for name in layer) / total
    assert by_layer.loc["layer 1", "share"] == pytest.approx(share)
    heads = fisher.heads()
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert heads.loc[query, 1] == pytest.approx(float(fisher.scores[query][8:].double().mean()))
    curve = fisher.concentration()
    flat = torch.cat([score.flatten() for score in fisher.scores.values()]).double().sort(descending=True).values
    k = len(flat) // 100
    at = np.interp(k / len(flat), curve["parameters"], curve["information"])
    assert at == pytest.approx(float(flat[:k].sum()) / total, rel=0.02)
    assert "Fisher(BertForMaskedLM, empirical, 10 sequences)" in fisher._repr_html_()


def test_warnings_are_silent_where_nothing_is_looped(tiny_lm, tiny_batches):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tiny_lm.model, tiny_batches)
