"""Dropout schedules follow their definition, and models really use them, everywhere."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gdrop_viz import DropoutSchedule, Fisher, dropout_sites, guided_dropout, measured_dropout, uniform_dropout
from gdrop_viz.dropout.guided import _log_positions, _rank_positions
from tests.dropout.stand_ins import made_up_fisher
from tests.unchanged import differences, snapshot
from tests.zoo import ZOO, build


@pytest.fixture(scope="module")
def bert():
    return build("Bert", layers=4)


@pytest.fixture(scope="module")
def guided(bert):
    return guided_dropout(bert.model, made_up_fisher(bert.model))


def distinct(model: nn.Module) -> DropoutSchedule:
    """A rate of its own for every site."""
    names = list(uniform_dropout(model).rates)
    return DropoutSchedule({name: 0.9 * (i + 1) / (len(names) + 1) for i, name in enumerate(names)})


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_uses_a_rate_of_its_own_at_each_site(name, attention):
    case = build(name, attention=attention)
    before = snapshot(case.model)
    schedule = distinct(case.model)
    with schedule.applied(case.model) as model:
        measured = measured_dropout(model, case.batch)
    assert {site: measured[site] for site in schedule.rates} == schedule.rates
    assert differences(before, snapshot(case.model)) == []


def empirical_rates(model: nn.Module, batch: dict) -> dict[str, float]:
    """Brute force, for models made of dropout modules: the share of zeros that each really writes."""
    seen = {}

    def count(name):
        def hook(module, inputs, output):
            dropped = (output == 0) & (inputs[0] != 0)
            seen.setdefault(name, []).append((dropped.sum().item(), (inputs[0] != 0).sum().item()))

        return hook

    handles = [
        module.register_forward_hook(count(name))
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Dropout)
    ]
    model.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for seed in range(40):
            torch.manual_seed(seed)
            model(**batch)
    model.eval()
    for handle in handles:
        handle.remove()
    return {name: sum(d for d, _ in counts) / sum(n for _, n in counts) for name, counts in seen.items()}


@pytest.mark.parametrize("name", ["GPTNeo", "DebertaV2"])
def test_measured_rates_agree_with_the_zeros_counted(name):
    case = build(name)
    schedule = distinct(case.model)
    with schedule.applied(case.model):
        counted = empirical_rates(case.model, case.batch)
    assert set(counted) == set(schedule.rates)
    for site, rate in schedule.rates.items():
        # >= 40 * 170 draws: five standard errors of a share are below 0.03 (the draws of padded places included)
        assert counted[site] == pytest.approx(rate, abs=0.03), site


def test_guided_rates_are_linear_in_rank(bert, guided):
    fisher = made_up_fisher(bert.model)
    # written out once more by hand from the paper's rule: mean over the tensors of the owner, then rank
    owners = {}
    for site in dropout_sites(bert.model):
        prefix = "bert." + site.name.removesuffix("dropout")
        tensors = [score for name, score in fisher.means.items() if name.startswith(prefix)]
        owners[site.name] = sum(tensors) / len(tensors)
    ranked = sorted(owners, key=owners.get)
    expected = {name: 0.1 * (1 - ranked.index(name) / 12) for name in owners}
    assert guided.rates == pytest.approx(expected, abs=1e-15)
    assert guided.scores == pytest.approx(owners)
    assert guided.rates[ranked[0]] == 0.1
    assert guided.rates[ranked[-1]] == 0.0
    assert guided.mean_rate == pytest.approx(0.05)


def test_element_weighting(bert):
    fisher = made_up_fisher(bert.model)
    schedule = guided_dropout(bert.model, fisher, weighting="element")
    sizes = {name: parameter.numel() for name, parameter in bert.model.named_parameters()}
    for site in dropout_sites(bert.model):
        names = [f"bert.{name}" for name in site.parameters]
        pooled = sum(fisher.means[name] * sizes[name] for name in names) / sum(sizes[name] for name in names)
        assert schedule.scores[site.name] == pytest.approx(pooled)


def test_ties_are_broken_by_execution_order(bert):
    fisher = made_up_fisher(bert.model)
    fisher.means[:] = 1.0
    rates = list(guided_dropout(bert.model, fisher).rates.values())
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (0.1, 0.0)


bounds = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(sorted)
score_lists = st.lists(st.floats(0, 1e6), min_size=2, max_size=40)


@given(scores=score_lists, limits=bounds)
@settings(max_examples=200, deadline=None)
def test_rank_schedules_reach_both_bounds_and_fall_with_the_score(scores, limits):
    lower, upper = limits
    scores = {str(i): score for i, score in enumerate(scores)}
    positions = _rank_positions(scores)
    schedule = DropoutSchedule(dict.fromkeys(scores, 0.0), positions=positions).rescaled(lower=lower, upper=upper)
    assert max(schedule.rates.values()) == upper
    assert min(schedule.rates.values()) == lower
    for a in scores:
        for b in scores:
            if scores[a] < scores[b]:
                assert schedule.rates[a] >= schedule.rates[b]
    assert sorted(schedule.shuffled(1).rates.values()) == sorted(schedule.rates.values())
    assert schedule.reversed().reversed().rates == pytest.approx(schedule.rates, abs=1e-12)
    matched = schedule.matched_uniform()
    assert set(matched.rates.values()) == {matched.mean_rate}
    assert matched.mean_rate == pytest.approx(schedule.mean_rate, abs=1e-12)


@given(scores=score_lists.filter(lambda scores: max(scores) > 0))
@settings(max_examples=100, deadline=None)
def test_log_positions_are_affine_in_the_logarithm(scores):
    positions = _log_positions({str(i): score for i, score in enumerate(scores)})
    assert all(0 <= position <= 1 for position in positions.values())
    order = sorted(range(len(scores)), key=scores.__getitem__)
    placed = [positions[str(i)] for i in order]
    assert placed == sorted(placed)


def test_log_scale():
    scores = {"a": 1e-6, "b": 1e-4, "c": 1e-2, "d": 0.0}
    assert _log_positions(scores) == pytest.approx({"a": 0.0, "b": 0.5, "c": 1.0, "d": 0.0})


def test_controls(guided):
    opposite = guided.reversed()
    assert opposite.kind == "reversed"
    assert all(opposite.rates[name] == pytest.approx(0.1 - rate) for name, rate in guided.rates.items())
    first, again, other = guided.shuffled(1), guided.shuffled(1), guided.shuffled(2)
    assert first.rates == again.rates != other.rates != guided.rates
    assert guided.matched_uniform().rates == dict.fromkeys(guided.rates, guided.mean_rate)
    wide = guided.rescaled(lower=0.05, upper=0.3)
    assert (wide.lower, wide.upper, wide.kind) == (0.05, 0.3, "guided")
    flat = guided.rescaled(lower=0.1)
    assert set(flat.rates.values()) == {0.1}
    assert flat.rescaled(lower=0.0).rates == guided.rates, "the order survives equal bounds"
    assert guided.rescaled().rates == guided.rates


def test_results_are_never_changed_in_place(guided):
    rates = dict(guided.rates)
    guided.reversed(), guided.shuffled(), guided.rescaled(upper=0.5), guided.matched_uniform()
    assert guided.rates == rates
    with pytest.raises(dataclasses.FrozenInstanceError):
        guided.rates = {}


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("name", ["Bert", "XLMRoberta", "GPT2", "T5", "Bart"])
def test_a_schedule_from_the_language_model_applies_to_other_heads(name, head):
    if name == "Bart" and head == "ForTokenClassification":
        pytest.skip("transformers has no such class")
    schedule = guided_dropout(lm := build(name).model, made_up_fisher(lm))
    other = build(name, head=head)
    heads = {site.name: site.rate for site in dropout_sites(other.model) if site.kind == "head"}
    schedule.apply(other.model)
    measured = measured_dropout(other.model)
    # T5's token classifier is its encoder alone
    expected = {
        site: rate for site, rate in schedule.rates.items() if not (name == "T5" and "Token" in head and "dec" in site)
    }
    assert {site: measured[site] for site in measured if site not in heads} == expected
    assert {site: measured[site] for site in heads} == heads, "the head keeps its own rate"


def test_scores_may_come_from_another_head_or_the_bare_backbone(bert, guided):
    fisher = made_up_fisher(bert.model)
    classifier = build("Bert", layers=4, head="ForSequenceClassification").model
    bare = bert.model.bert
    stripped = fisher.means.rename(lambda name: name.removeprefix("bert."))
    for model in (classifier, bare):
        assert guided_dropout(model, fisher).rates == guided.rates
        assert guided_dropout(model, Fisher.from_means(stripped)).rates == guided.rates


def test_tied_embedding_listed_under_the_head(bert):
    """XLM-RoBERTa's first name for its word embedding is the head's."""
    model = build("XLMRoberta").model
    fisher = made_up_fisher(model)
    assert "roberta.embeddings.word_embeddings.weight" not in fisher.means
    schedule = guided_dropout(model, fisher)
    site = next(site for site in schedule.sites if site.kind == "embedding")
    names = ["lm_head.decoder.weight"] + [f"roberta.{n}" for n in site.parameters if "word_embeddings" not in n]
    assert schedule.scores[site.name] == pytest.approx(fisher.means[names].mean())


def test_peft_models(bert, guided):
    peft = pytest.importorskip("peft")
    classifier = build("Bert", layers=4, head="ForSequenceClassification").model
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.3, target_modules=["query", "value"])
    wrapped = peft.get_peft_model(classifier, config)
    with guided.applied(wrapped):
        measured = measured_dropout(wrapped)
        assert {site: measured[site] for site in guided.rates} == guided.rates
        assert {rate for site, rate in measured.items() if "lora" in site} == {0.3}
    assert guided_dropout(wrapped, made_up_fisher(bert.model)).rates == guided.rates


def test_peft_fisher_names(bert, guided):
    """Scores that were estimated on the wrapped model carry its prefixes."""
    means = made_up_fisher(bert.model).means
    inside = "base_model.model."
    wrapped = {
        inside + (name.replace("query.", "query.base_layer.") if "query" in name else name): score
        for name, score in means.items()
    }
    assert guided_dropout(bert.model, Fisher.from_means(wrapped)).rates == guided.rates


def test_save_and_load(tmp_path, guided):
    path = tmp_path / "deep" / "schedule.json"
    guided.save(path)
    assert DropoutSchedule.load(path) == guided
    assert json.loads(path.read_text())["rates"] == guided.rates
    with pytest.raises(FileNotFoundError, match="expected a dropout schedule, got"):
        DropoutSchedule.load(tmp_path / "none.json")
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a dropout schedule"):
        DropoutSchedule.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected format"):
        DropoutSchedule.load(path)


def test_frame_and_html(guided):
    frame = guided.to_frame()
    assert list(frame["site"]) == list(guided.rates)
    assert frame.set_index("site")["rate"].to_dict() == guided.rates
    # by definition: least informative first, so rates fall along the ranks
    assert frame.sort_values("rank")["rate"].is_monotonic_decreasing
    assert "guided dropout" in guided._repr_html_()
    assert "<script" not in DropoutSchedule({"a": 0.1}, kind="<script>")._repr_html_()


def test_apply_stays_and_applied_does_not(guided):
    case = build("Bert", layers=4)
    before = snapshot(case.model)

    def interrupted() -> None:
        with guided.applied(case.model):
            assert measured_dropout(case.model) == guided.rates
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert differences(before, snapshot(case.model)) == []
    assert guided.apply(case.model) is case.model
    assert measured_dropout(case.model) == guided.rates
    with uniform_dropout(case.model, 0.3).applied(case.model):
        assert set(measured_dropout(case.model).values()) == {0.3}
    assert measured_dropout(case.model) == guided.rates


def test_config_of_other_layers_and_of_the_model_stays(guided):
    case = build("Falcon")
    schedule = distinct(case.model)
    schedule.apply(case.model)
    assert case.model.config.hidden_dropout == 0.1
    assert measured_dropout(case.model)["h.1.config.hidden_dropout"] == schedule.rates["h.1.config.hidden_dropout"]


class Stubborn(nn.Module):
    """Its rate follows `p` only up to a point: no attribute can be trusted, only a measurement."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.p = 0.1

    def forward(self, x):
        return torch.nn.functional.dropout(self.linear(x), min(self.p, 0.2), self.training)


def test_a_rate_that_does_not_take_is_an_error_and_undone():
    net = nn.Sequential(Stubborn(), nn.Linear(4, 4), nn.Dropout(0.1))
    batch = {"input": torch.ones(1, 4)}
    before = snapshot(net)
    with pytest.raises(RuntimeError, match=r"0\.p \(wanted 0\.5, measured 0\.2\) did not take; the old rates are back"):
        uniform_dropout(net, 0.5, batch=batch).apply(net, batch=batch)
    assert differences(before, snapshot(net)) == []


def test_other_backbones_are_refused(guided):
    before = snapshot(model := build("Bert", layers=2).model)
    with pytest.raises(ValueError, match=r"got one without encoder\.layer\.2\.attention\.self\.dropout, .* and 3 more"):
        guided.apply(model)
    with pytest.raises(ValueError, match=r"got one with encoder\.layer\.4"):
        guided.apply(build("Bert", layers=6).model)
    assert differences(before, snapshot(model)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lower": 0.2, "upper": 0.1}, "expected lower <= upper, got 0.2 and 0.1"),
        ({"lower": -0.1}, "expected lower as a number at least 0 and below 1, got -0.1"),
        ({"upper": 1.0}, "expected upper as a number at least 0 and below 1, got 1.0"),
        ({"upper": float("nan")}, "got nan"),
        ({"scale": "linear"}, "expected scale to be one of 'rank', 'log', got 'linear'"),
        ({"weighting": "none"}, "expected weighting to be one of 'tensor', 'element'"),
    ],
)
def test_bad_arguments(bert, arguments, message):
    before = snapshot(bert.model)
    with pytest.raises(ValueError, match=message):
        guided_dropout(bert.model, made_up_fisher(bert.model), **arguments)
    assert differences(before, snapshot(bert.model)) == []


def test_scores_of_another_model_are_refused(bert):
    fisher = made_up_fisher(build("GPT2").model)
    with pytest.raises(
        ValueError, match=r"expected a Fisher score for each of the .* parameters .* missing: embeddings"
    ):
        guided_dropout(bert.model, fisher)
    fisher = made_up_fisher(bert.model)
    fisher.means["bert.encoder.layer.1.output.dense.weight"] = float("nan")
    with pytest.raises(ValueError, match=r"expected finite Fisher scores >= 0, got nan"):
        guided_dropout(bert.model, fisher)
    with pytest.raises(TypeError, match=r"expected a Fisher .* got dict"):
        guided_dropout(bert.model, {})


def test_models_without_sites_are_refused():
    with pytest.raises(ValueError, match="expected a model whose body has dropout sites, got Linear with none"):
        uniform_dropout(nn.Linear(2, 2), batch={"input": torch.ones(1, 2)})


def funnel() -> tuple[nn.Module, set[str]]:
    """Its position encodings are computed, and dropped."""
    import transformers

    config = transformers.FunnelConfig(
        vocab_size=72, d_model=16, n_head=2, d_head=8, d_inner=24, block_sizes=[1, 1], num_decoder_layers=1
    )
    stacks = [
        f"{stack}.attention_structure.{part}_dropout" for stack in ("encoder", "decoder") for part in ("sin", "cos")
    ]
    return transformers.FunnelForMaskedLM(config).eval(), set(stacks)


class Sinusoids(nn.Module):
    """Its first dropout follows a frozen table alone."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.embed = nn.Embedding(8, 4), nn.Embedding(8, 4)
        self.positions.weight.requires_grad_(False)
        self.drop, self.linear, self.out = nn.Dropout(0.1), nn.Linear(4, 4), nn.Dropout(0.1)

    def forward(self, input_ids, **_):
        return self.out(self.linear(self.drop(self.positions(input_ids)) + self.embed(input_ids)))


@pytest.mark.parametrize("make", [funnel, lambda: (Sinusoids(), {"drop"})])
def test_sites_that_follow_no_score_are_left_out_of_the_order_with_a_word(make):
    with torch.random.fork_rng(devices=[]):
        model, without = make()
    fisher = made_up_fisher(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    fisher = Fisher.from_means({name: score for name, score in fisher.means.items() if name in trained})
    with pytest.warns(UserWarning, match=r"left out: .*; no parameter with a Fisher score feeds these sites"):
        schedule = guided_dropout(model, fisher, lower=0.2, upper=0.4)
    everywhere = uniform_dropout(model, 0.3)
    assert everywhere.rates.keys() - schedule.rates.keys() == without
    assert schedule.scores.keys() == schedule.rates.keys()
    with schedule.applied(model):
        assert measured_dropout(model) == {**dict.fromkeys(without, 0.1), **schedule.rates}
    with everywhere.applied(model):
        assert set(measured_dropout(model).values()) == {0.3}


def test_a_lone_site_gets_the_upper_bound_with_a_word():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.warns(UserWarning, match=r"Sequential has one site to order, 1, .* the upper bound, 0\.3"):
        schedule = guided_dropout(net, made_up_fisher(net), 0.1, 0.3, batch={"input": torch.ones(1, 2)})
    assert schedule.rates == {"1": 0.3}


@pytest.mark.parametrize("name", ["Llama", "Qwen2"])
def test_a_model_without_dropout_but_at_its_attention_says_what_a_schedule_means(name):
    model = build(name, dropout=0.0).model
    with pytest.warns(UserWarning, match=r"has no dropout but .* attention probabilities, .* these 2 sites"):
        schedule = guided_dropout(model, made_up_fisher(model))
    with schedule.applied(model):
        assert measured_dropout(model) == schedule.rates


def test_usual_models_get_no_warning(bert):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guided_dropout(bert.model, made_up_fisher(bert.model))


def test_frozen_tables_need_no_score():
    """Pegasus keeps sinusoids as parameters that do not train; no Fisher information is estimated for them."""
    model = build("Pegasus").model
    fisher = made_up_fisher(model)
    trained = {name: score for name, score in fisher.means.items() if "embed_positions" not in name}
    assert guided_dropout(model, Fisher.from_means(trained)).rates
