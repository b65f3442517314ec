"""Layouts that could be mistaken: each against the loop, with the batches in which the mistake would show."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from torch import nn

import gdrop_viz as gv
from tests.zoo import build, make_batch


def scores(model, batches, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return gv.fisher_information(model, batches, progress=False, **settings)


def assert_like_the_loop(fisher, model, batches, *, relative=1e-6, **settings):
    expected = scores(model, batches, method="loop", **settings)
    scale = max(float(score.max()) for score in expected.scores.values())
    for name, score in expected.scores.items():
        difference = float((fisher.scores[name] - score).abs().max())
        assert difference <= relative * float(score.max()) + 1e-6 * relative * scale, name


def squared(outputs, batch):
    return (outputs - batch["labels"]).square().flatten(1).mean(1)


# --- look-ups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "max_length", "axis"), [(15, 16, "input_ids"), (8, 32, "labels")])
def test_texts_of_equal_length_on_the_bundled_t5(batch_size, max_length, axis):
    """The relative position biases are looked up in a (T, T) table, here with as many rows as sequences."""
    lm = gv.load_pretrained("t5-mini")
    batches = gv.pretraining_batches(
        lm,
        n_sequences=24 if axis == "labels" else 15,
        batch_size=batch_size,
        max_length=max_length,
        sort_by_length=True,
    )
    assert any(batch[axis].shape[0] == batch[axis].shape[1] for batch in batches)
    names = [name for name, _ in lm.model.named_parameters() if "relative_attention_bias" in name]
    fisher = scores(lm.model, batches, parameters=names, method="batched")
    assert_like_the_loop(fisher, lm.model, batches, relative=1e-3, parameters=names)


class Distances(nn.Module):
    """Attention with a table of distances, whose index may be made of the batch's tensors without being by sequence."""

    def __init__(self, *, from_batch: bool):
        super().__init__()
        self.table, self.last = nn.Embedding(9, 1), nn.Linear(4, 4)
        self.from_batch = from_batch

    def forward(self, x):
        places = torch.arange(x.shape[1])
        if self.from_batch:
            places = (x[0, :, 0] * 0).long() + places
        index = (places.unsqueeze(0) - places.unsqueeze(1)).clamp(-4, 4) + 4
        weights = (x @ x.mT + self.table(index).squeeze(-1)).softmax(-1)
        return self.last(weights @ x)


def batches_of(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(*shape, 4, generator=generator, dtype=torch.float64) for name in ("x", "labels")}
        for shape in shapes
    ]


def test_a_constant_table_with_as_many_rows_as_sequences():
    torch.manual_seed(0)
    model, batches = Distances(from_batch=False).double(), batches_of((2, 5), (4, 4), (1, 3), (3, 6))
    for method in ("auto", "batched"):
        fisher = scores(model, batches, loss=squared, method=method)
        assert not fisher.looped
        assert_like_the_loop(fisher, model, batches, loss=squared)


def test_a_parameter_that_is_used_in_another_way_than_in_the_self_check_goes_through_the_loop():
    torch.manual_seed(0)
    model, batches = Distances(from_batch=True).double(), batches_of((2, 5), (4, 8))
    with pytest.warns(RuntimeWarning, match="1 of 3 .*table.weight .it is used in another way than in the self-check"):
        fisher = gv.fisher_information(model, batches, loss=squared, progress=False)
    assert list(fisher.looped) == ["table.weight"]
    assert_like_the_loop(fisher, model, batches, loss=squared)


# --- sequences along another axis than the first ----------------------------------------------------------------------


class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("shapes", [[(1, 4), (4, 4)], [(1, 5), (1, 3), (3, 3)], [(1, 4)]])
def test_one_sequence_first_does_not_hide_a_layout(shapes):
    torch.manual_seed(0)
    model, batches = TimeMajor().double(), batches_of(*shapes)
    fisher = scores(model, batches, loss=squared)
    assert_like_the_loop(fisher, model, batches, loss=squared)
    assert set(fisher.looped) >= {"layer.weight"}


def hidden_state(outputs, batch):
    return (outputs.last_hidden_state * batch["labels"]).square().mean((1, 2))


def test_one_sequence_first_on_a_model_that_keeps_time_first():
    torch.manual_seed(0)
    size = dict(vocab_size=20, d_model=8, n_layer=1, n_head=2, d_inner=8, dropout=0.0)
    model = transformers.XLNetModel(transformers.XLNetConfig(**size)).double().eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(20, (n, 6), generator=generator),
            "labels": torch.randn(n, 6, 1, generator=generator).double(),
        }
        for n in (1, 3)
    ]
    assert_like_the_loop(scores(model, batches, loss=hidden_state), model, batches, loss=hidden_state)


def test_one_sequence_first_on_an_encoder_decoder_that_keeps_time_first():
    torch.manual_seed(0)
    size = dict(src_vocab_size=20, tgt_vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, langs=["a", "b"])
    size |= dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8)
    model = transformers.FSMTForConditionalGeneration(transformers.FSMTConfig(**size)).eval()  # masks in float32
    batches = [
        {**make_batch("span", pad=1, lengths=(6,) * n, target_lengths=(5,) * n), "decoder_input_ids": None}
        for n in (1, 3)
    ]
    for batch in batches:
        batch["input_ids"] = batch["input_ids"] % 17 + 3
        batch["labels"] = batch["labels"] % 17 + 3
        batch["decoder_input_ids"] = batch["labels"].roll(1, 1)

    def loss(outputs, batch):
        picked = outputs.logits.log_softmax(-1).gather(-1, batch["labels"].unsqueeze(-1))
        return -picked.mean((1, 2))

    assert_like_the_loop(scores(model, batches, loss=loss), model, batches, loss=loss, relative=1e-4)


# --- parameters that take no part -------------------------------------------------------------------------------------


class Chosen(nn.Module):
    """Experts chosen by a sequence's first number, a layer that no loss reads, and a state made without gradients."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.unread, self.state = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        self.unread(x)
        with torch.no_grad():
            state = self.state(x)
        chosen = (x[:, 0, 0] > 0).long()
        outputs = torch.stack([expert(x) for expert in self.experts[:2]], 1)
        return outputs[torch.arange(len(x)), chosen] + state


@pytest.mark.parametrize("parameters", [None, ["unread.weight"], ["experts.2.bias", "state.weight"]])
@pytest.mark.parametrize("method", ["auto", "batched", "loop"])
def test_parameters_that_take_no_part_have_zeros(method, parameters):
    torch.manual_seed(0)
    model, batches = Chosen().double(), batches_of((1, 3), (4, 3))
    fisher = scores(model, batches, loss=squared, method=method, parameters=parameters)
    for name, score in fisher.scores.items():
        takes_part = name.startswith(("experts.0", "experts.1"))
        assert bool(score.any()) == takes_part, name
    if parameters is None:
        assert_like_the_loop(fisher, model, batches, loss=squared)


def test_a_state_made_without_gradients_meets_parameters_as_part_of_the_batch():
    torch.manual_seed(0)

    class Refined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                state = self.first(x).tanh()
            return self.second(state)

    model, batches = Refined().double(), batches_of((2, 5), (4, 4))
    for method in ("auto", "batched"):
        fisher = scores(model, batches, loss=squared, method=method)
        assert not fisher.looped
        assert_like_the_loop(fisher, model, batches, loss=squared)


# --- sequences that depend on each other ------------------------------------------------------------------------------


class MixingNorm(nn.LayerNorm):
    """A norm that adds the mean over the sequences first, as a router with a capacity couples them."""

    def forward(self, hidden):
        return super().forward(hidden + 0.5 * hidden.mean(0, keepdim=True))


def mixing_bert():
    case = build("Bert", dtype=torch.float64)
    case.model.bert.embeddings.LayerNorm = MixingNorm(16).double()
    return case.model, [case.batch]


def mixing_gpt2():
    case = build("GPT2", dtype=torch.float64)
    case.model.transformer.h[1].ln_1 = MixingNorm(16).double()
    return case.model, [case.batch]


@pytest.mark.parametrize("mixing", [mixing_bert, mixing_gpt2])
def test_sequences_that_influence_each_other_are_scored_alone_and_said_once(mixing):
    model, batches = mixing()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fisher = gv.fisher_information(model, batches, progress=False)
    assert sum("sequences of a batch influence each other:" in str(one.message) for one in said) == 1
    assert set(fisher.looped) == set(fisher.scores)
    assert_like_the_loop(fisher, model, batches)


def test_a_configuration_that_will_not_give_one_number(tiny_lm, tiny_batches):
    """As those of layers that differ from each other: asking raises something else than AttributeError."""

    class Heterogeneous(type(tiny_lm.model.config)):
        @property
        def num_key_value_heads(self):
            raise KeyError("layers differ")

    before = type(tiny_lm.model.config)
    tiny_lm.model.config.__class__ = Heterogeneous
    try:
        fisher = gv.fisher_information(tiny_lm.model, tiny_batches[:1], progress=False)
    finally:
        tiny_lm.model.config.__class__ = before
    assert {layout.n_key_value_heads for layout in fisher.layouts.values()} == {None}
