"""Does a selection hold exactly the elements that a full sort, counted by hand, says?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gdrop_viz.fisher import Fisher
from gdrop_viz.models.anatomy import place_of
from gdrop_viz.perturbation import Selection, bottom_k, random_direction, random_k, select, top_k


def fisher_of(scores: dict[str, torch.Tensor]) -> Fisher:
    means = pd.Series({name: float(score.double().mean()) for name, score in scores.items()})
    return Fisher(
        means=means,
        standard_errors=means * 0,
        n_sequences=1,
        estimator="empirical",
        resolution="element",
        shapes={name: tuple(score.shape) for name, score in scores.items()},
        scores=scores,
        history=pd.DataFrame(),
    )


def fisher_like(model: nn.Module, seed: int = 0) -> Fisher:
    generator = torch.Generator().manual_seed(seed)
    return fisher_of({n: torch.rand(p.shape, generator=generator) ** 3 for n, p in model.named_parameters()})


def flat(selection: Selection) -> np.ndarray:
    return np.concatenate([selection.mask(name).reshape(-1).numpy() for name in selection.shapes])


def fully_sorted(scores: dict[str, torch.Tensor], k: int) -> np.ndarray:
    values = torch.cat([score.reshape(-1) for score in scores.values()]).numpy()
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(-values, kind="stable")[:k]] = True
    return chosen


# few different values, so that ties are everywhere
tied = st.lists(st.integers(0, 3), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(values=tied, k=st.integers(1, 12))
def test_exactly_k_elements_also_with_ties(values, k):
    numbers = torch.tensor(values, dtype=torch.float32)
    scores = {"a": numbers[:6].reshape(2, 3), "b": numbers[6:8], "c": numbers[8:].reshape(4, 1)}
    fisher = fisher_of(scores)
    top = top_k(fisher, k)
    assert top.n_elements == k
    assert (flat(top) == fully_sorted(scores, k)).all()
    if k < 12:
        assert (flat(bottom_k(fisher, 12 - k)) == ~flat(top)).all()


def test_the_top_is_where_fisher_locates_it_also_with_ties():
    scores = {
        "layer.0.attention.weight": torch.zeros(20, 30),
        "layer.0.mlp.weight": torch.zeros(20, 30),
        "layer.1.mlp.weight": torch.arange(600.0).reshape(20, 30) % 2,
    }
    fisher = fisher_of(scores)
    for fraction in (0.01, 0.1667, 0.5):  # a part of the ones; all of them; zeros too
        chosen, located = top_k(fisher, fraction), fisher.located(fraction)
        assert located["chosen"].sum() == chosen.n_elements == round(fraction * 1800)
        selected = [int(chosen.mask(name).sum()) for name in scores]
        assert located["chosen"].tolist() == selected


def test_concentration_is_that_of_a_full_sort():
    generator = torch.Generator().manual_seed(0)
    scores = {
        "layer.0.mlp.weight": torch.rand(50, 40, generator=generator) ** 4,
        "layer.1.mlp.weight": torch.zeros(300),
    }
    curve = fisher_of(scores).concentration(points=50)
    ordered = np.sort(np.concatenate([score.reshape(-1).double().numpy() for score in scores.values()]))[::-1]
    held = np.concatenate([[0.0], ordered.cumsum() / ordered.sum()])
    at = (curve["parameters"] * len(ordered)).round().astype(int)
    np.testing.assert_allclose(curve["information"], held[at], rtol=1e-9)
    assert (at.iloc[0], at.iloc[1], at.iloc[-1]) == (0, 1, 2300)
    assert curve.attrs["gini"] == pytest.approx(2 * np.trapezoid(held) / 2300 - 1, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_precision(dtype):
    scores = {"a": torch.tensor([3.0, 1.0, 2.0], dtype=dtype), "b": torch.tensor([[5.0], [0.0]], dtype=dtype)}
    assert flat(top_k(fisher_of(scores), 2)).tolist() == [True, False, False, True, False]


def test_the_same_fraction_in_each_tensor_adds_up_to_k(tiny_bert):
    fisher = fisher_like(tiny_bert)
    chosen = top_k(fisher, 0.1, within="tensor")
    assert chosen.n_elements == round(0.1 * chosen.n_total)
    for name, score in fisher.scores.items():
        inside = int(chosen.mask(name).sum())
        assert abs(inside - 0.1 * score.numel()) <= 1
        if 0 < inside < score.numel():
            assert score[chosen.mask(name)].min() >= score[~chosen.mask(name)].max()


def test_whole_tensors_by_their_mean(tiny_bert):
    fisher = fisher_like(tiny_bert)
    names = fisher.means.sort_values(ascending=False).index
    assert set(top_k(fisher, 0.5, by="tensor").names) == set(names[: round(len(names) / 2)])
    assert set(bottom_k(fisher, 3, by="tensor").names) == set(names[-3:])
    assert all(top_k(fisher, 3, by="tensor").is_whole(name) for name in names[:3])


@pytest.mark.parametrize(("by", "place"), [("layer", lambda p: p.label), ("component", lambda p: p.component)])
def test_whole_layers_and_components_by_the_mean_of_their_elements(tiny_bert, by, place):
    fisher = fisher_like(tiny_bert)
    groups: dict[str, list[torch.Tensor]] = {}
    for name, score in fisher.scores.items():
        groups.setdefault(place(place_of(name)), []).append(score.reshape(-1))
    best = max(groups, key=lambda group: torch.cat(groups[group]).mean())
    chosen = top_k(fisher, 1, by=by)
    assert {place(place_of(name)) for name in chosen.names} == {best}
    assert chosen.n_elements == sum(map(len, groups[best]))


def test_random_selections_repeat_and_leave_the_generators_alone(tiny_bert):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = random_k(tiny_bert, 0.01, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.n_elements == round(0.01 * first.n_total)
    assert (flat(first) == flat(random_k(tiny_bert, 0.01, seed=3))).all()
    assert (flat(first) != flat(random_k(tiny_bert, 0.01, seed=4))).any()


def test_random_elements_are_uniform_over_tensors():
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 10))
    counts = np.array([int(random_k(model, 150, seed=seed).mask("0.weight").sum()) for seed in range(200)])
    total = sum(p.numel() for p in model.parameters())
    share = 1200 / total
    # hypergeometric: mean and variance in closed form; 4 standard errors of the mean of 200 draws
    variance = 150 * share * (1 - share) * (total - 150) / (total - 1)
    assert abs(counts.mean() - 150 * share) < 4 * np.sqrt(variance / 200)


def test_random_like_keeps_the_number_in_each_tensor(tiny_bert):
    top = top_k(fisher_like(tiny_bert), 0.05)
    control = top.random_like(seed=1)
    for name in top.shapes:
        assert int(control.mask(name).sum()) == int(top.mask(name).sum())
    assert (flat(control) != flat(top)).any()


def test_unions_intersections_and_complements_are_those_of_sets(tiny_bert):
    a, b = top_k(fisher_like(tiny_bert), 0.3), random_k(tiny_bert, 0.4)
    whole = select(tiny_bert, lambda name: "embeddings" in name)
    for x, y in [(a, b), (a, whole), (whole, b)]:
        assert (flat(x | y) == (flat(x) | flat(y))).all()
        assert (flat(x & y) == (flat(x) & flat(y))).all()
    assert (flat(~a) == ~flat(a)).all()
    assert (a & ~a).n_elements == 0
    assert (a & ~a).names == []


def test_shares_are_those_of_plain_sums(tiny_bert):
    fisher = fisher_like(tiny_bert)
    chosen = top_k(fisher, 0.02)
    summary = chosen.summary(model=tiny_bert)
    scores = torch.cat([score.reshape(-1) for score in fisher.scores.values()]).double()
    weights = torch.cat([p.detach().reshape(-1) for p in tiny_bert.parameters()]).double()
    inside = torch.from_numpy(flat(chosen))
    # float32 products summed in float64
    assert summary["share_of_fisher"] == pytest.approx(float(scores[inside].sum() / scores.sum()), rel=1e-6)
    expected = float(weights[inside].square().sum() / weights.square().sum())
    assert summary["share_of_squared_norm"] == pytest.approx(expected, rel=1e-9)
    assert summary["share_of_elements"] == chosen.n_elements / len(weights)
    rest = (~chosen).to_frame("component", model=tiny_bert)
    both = chosen.to_frame("component", model=tiny_bert) + rest
    assert both["share_of_fisher"].sum() == pytest.approx(1)
    assert both["share_of_squared_norm"].sum() == pytest.approx(1)
    assert (both["share_selected"] == 1).all()


def test_tied_parameters_count_once(tiny_bert):
    names = [name for name, _ in tiny_bert.named_parameters()]
    everything = random_k(tiny_bert, 1.0)
    assert everything.names == names
    assert everything.n_elements == sum(p.numel() for p in tiny_bert.parameters())
    with pytest.raises(ValueError, match="tied parameter goes by the first"):
        everything.mask("cls.predictions.decoder.weight")


def test_scores_from_elsewhere_get_their_shapes_from_the_model(tiny_bert):
    fisher = Fisher.from_means(fisher_like(tiny_bert).means)
    chosen = top_k(fisher, 0.5, by="tensor")
    assert "shapes not known" in repr(chosen)
    with pytest.raises(ValueError, match=r"selection\.on\(model\)"):
        chosen.n_elements  # noqa: B018
    known = chosen.on(tiny_bert)
    parameters = dict(tiny_bert.named_parameters())
    assert known.n_elements == sum(parameters[name].numel() for name in chosen.names)
    matrices = [name for name in chosen.names if parameters[name].ndim > 1]
    assert list(random_direction(tiny_bert, selection=chosen).vectors) == matrices
    assert chosen.to_frame(model=tiny_bert)["selected"].sum() == known.n_elements


def test_a_saved_selection_is_the_same(tiny_bert, tmp_path):
    chosen = random_k(tiny_bert, 0.2) | select(tiny_bert, lambda name: "query" in name)
    chosen.save(tmp_path / "s.safetensors")
    again = Selection.load(tmp_path / "s.safetensors")
    assert (flat(again) == flat(chosen)).all()
    assert (again.names, again.label, again.shapes) == (chosen.names, chosen.label, chosen.shapes)
    random_direction(tiny_bert).save(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"written by Selection\.save"):
        Selection.load(tmp_path / "d.safetensors")


def test_the_html_view_escapes_labels(tiny_bert):
    view = select(tiny_bert, lambda name: True, label="<b>all</b>")._repr_html_()
    assert "&lt;b&gt;all" in view
    assert "<b>all" not in view


@pytest.mark.parametrize("k", [0, -1, 1.5, 0.0, float("nan"), True, 10**9, "half"])
def test_a_bad_k_is_named(tiny_bert, k):
    with pytest.raises(ValueError, match=r"expected k as a fraction in \(0, 1\] or a count"):
        random_k(tiny_bert, k)


def test_bad_arguments_are_named(tiny_bert):
    fisher = fisher_like(tiny_bert)
    with pytest.raises(ValueError, match="'head'"):
        top_k(fisher, 0.5, by="head")
    with pytest.raises(ValueError, match="within='tensor' with by='element'"):
        top_k(fisher, 0.5, by="tensor", within="tensor")
    with pytest.raises(ValueError, match="resolution='element'"):
        top_k(Fisher.from_means(fisher.means), 0.5)
    with pytest.raises(TypeError, match="expected fisher as a Fisher"):
        top_k(tiny_bert, 0.5)
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module or a Pretrained"):
        random_k("bert-mini", 0.5)
    with pytest.raises(ValueError, match="at least one parameter"):
        select(tiny_bert, lambda name: False)
    with pytest.raises(ValueError, match="'nothing'"):
        select(tiny_bert, ["nothing"])
    broken = fisher_like(tiny_bert)
    next(iter(broken.scores.values())).view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match="finite scores"):
        top_k(broken, 0.1)
