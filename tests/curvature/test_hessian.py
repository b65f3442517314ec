"""Do curvature estimates agree with the dense Hessian, found without double backward, and with closed forms?"""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from torch import nn

from gdrop_viz.curvature import (
    Hessian,
    HessianTrace,
    hessian_density,
    hessian_spectrum,
    hessian_trace,
    sequence_curvature,
)
from gdrop_viz.models.losses import sequence_losses
from gdrop_viz.perturbation import random_k, select
from tests.curvature.conftest import chosen_of
from tests.zoo import build


def test_products_are_those_of_the_dense_hessian(small):
    model, batches, dense = small
    vector = np.random.default_rng(0).normal(size=len(dense))
    with Hessian(model, batches) as hessian:
        # central differences in float64 are good to about step² = 1e-10
        np.testing.assert_allclose(hessian @ vector, dense @ vector, atol=1e-6 * np.abs(dense @ vector).max())
    chosen = random_k(model, 0.3)
    inside = chosen_of(model, chosen)
    with Hessian(model, batches, selection=chosen) as block:
        assert block.shape == (inside.sum(), inside.sum())
        expected = dense[np.ix_(inside, inside)] @ vector[inside]
        np.testing.assert_allclose(block @ vector[inside], expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("which", "end"), [("LA", slice(-1, -5, -1)), ("SA", slice(3, None, -1))])
def test_eigenvalues_are_those_of_the_dense_hessian(small, which, end):
    model, batches, dense = small
    expected = np.linalg.eigvalsh((dense + dense.T) / 2)[end]
    spectrum = hessian_spectrum(model, batches, k=4, which=which, tolerance=1e-8, progress=False)
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=1e-5)
    assert spectrum.converged.all()
    assert (spectrum.residuals < 1e-6).all()
    for value, direction in zip(spectrum.eigenvalues, spectrum.directions, strict=True):
        assert direction.norm == pytest.approx(1)
        vector = np.concatenate([direction.vectors[name].reshape(-1).numpy() for name, _ in model.named_parameters()])
        np.testing.assert_allclose(dense @ vector, value * vector, atol=1e-5 * abs(expected).max())


def test_a_selection_has_the_spectrum_of_its_block(small):
    model, batches, dense = small
    chosen = random_k(model, 60, seed=3)
    inside = chosen_of(model, chosen)
    block = dense[np.ix_(inside, inside)]
    spectrum = hessian_spectrum(model, batches, k=2, selection=chosen, tolerance=1e-8, progress=False)
    np.testing.assert_allclose(spectrum.eigenvalues, np.linalg.eigvalsh((block + block.T) / 2)[:-3:-1], rtol=1e-5)
    assert all(
        not direction.vectors[n][~chosen.mask(n)].any() for direction in spectrum.directions for n in direction.vectors
    )
    assert spectrum.label == chosen.label


def test_eigenvectors_bend_a_surface_by_their_eigenvalue(small):
    from gdrop_viz.landscape import loss_surface

    model, batches, _ = small
    spectrum = hessian_spectrum(model, batches, k=2, tolerance=1e-8, progress=False)
    surface = loss_surface(model, batches, spectrum.directions, extent=0.01, points=5, progress=False)
    fit = surface.curvature()
    # third-order terms over a radius of 0.01
    np.testing.assert_allclose(fit.eigenvalues, spectrum.eigenvalues, rtol=0.02)


def test_the_trace_of_a_diagonal_hessian_is_exact():
    """For a diagonal Hessian each Rademacher probe gives the trace itself: vᵢ² = 1."""
    model = nn.Linear(3, 1, bias=False)
    batches = [{"input": torch.diag(torch.tensor([1.0, 2.0, 3.0]))}]
    trace = hessian_trace(model, batches, 5, loss=lambda outputs, batch: outputs[:, 0] ** 2, progress=False)
    assert trace.mean == pytest.approx(2 * (1 + 4 + 9) / 3, rel=1e-6)
    assert trace.standard_error == pytest.approx(0, abs=1e-6)


def test_the_trace_agrees_with_the_dense_one_within_its_error(small):
    model, batches, dense = small
    trace = hessian_trace(model, batches, 60, progress=False, seed=1)
    # Hutchinson's variance for Rademacher probes is 2 (‖H‖² - Σ Hᵢᵢ²) (closed form)
    exact_error = np.sqrt(2 * ((dense**2).sum() - (np.diag(dense) ** 2).sum()) / 60)
    assert abs(trace.mean - np.trace(dense)) < 4 * exact_error
    assert trace.standard_error == pytest.approx(exact_error, rel=0.4)
    sizes = [p.numel() for p in model.parameters()]
    blocks = np.split(np.diag(dense), np.cumsum(sizes)[:-1])
    frame = trace.to_frame()
    exact = np.array([block.sum() for block in blocks])
    far = np.abs(frame["trace"].to_numpy() - exact) / np.maximum(frame["standard_error"].to_numpy(), 1e-6)
    assert (far < 5).all()
    for by in ("layer", "component"):
        assert trace.to_frame(by)["trace"].sum() == pytest.approx(trace.mean)
        assert trace.to_frame(by)["elements"].sum() == sum(sizes)
    assert trace.layers.equals(trace.to_frame("layer"))


def test_the_trace_of_any_part_agrees_with_the_dense_diagonal(small):
    model, batches, dense = small
    few, other = random_k(model, 0.2, seed=1), select(model, lambda name: "query" in name)
    parts = {"few": few, "not few": ~few, "queries": other}
    trace = hessian_trace(model, batches, 60, parts=parts, progress=False)
    frame = trace.to_frame("part")
    for name, part in parts.items():
        inside = chosen_of(model, part)
        assert frame.loc[name, "elements"] == inside.sum()
        assert abs(frame.loc[name, "trace"] - np.diag(dense)[inside].sum()) < 4 * frame.loc[name, "standard_error"]
    assert frame["trace"][["few", "not few"]].sum() == pytest.approx(trace.mean)
    # over a selection only what lies in both is counted
    inside = chosen_of(model, few)
    block = hessian_trace(model, batches, 60, selection=few, parts={"queries": other}, progress=False)
    assert block.to_frame("part")["elements"].item() == (inside & chosen_of(model, other)).sum()
    assert abs(block.mean - np.diag(dense)[inside].sum()) < 4 * block.standard_error


def test_the_density_has_the_moments_of_the_dense_hessian(small):
    model, batches, dense = small
    density = hessian_density(model, batches, n_probes=5, n_steps=20, progress=False)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1)
    for power in (1, 2):
        estimate, error = density.moment(power)
        assert abs(estimate - np.trace(np.linalg.matrix_power(dense, power))) < 4 * error
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    assert density.nodes.max() == pytest.approx(values[-1], rel=1e-3)  # Lanczos finds the ends first
    assert density.nodes.min() == pytest.approx(values[0], rel=1e-3)
    frame = density.to_frame(points=4000)
    assert np.trapezoid(frame["density"], frame["eigenvalue"]) == pytest.approx(1, rel=1e-3)


def test_one_probe_of_a_known_matrix_is_exact_quadrature():
    """H = diag(9, 1): v = ±(1, 1)/√2 has weight 1/2 on each eigenvalue."""
    model = nn.Linear(2, 1, bias=False)
    batches = [{"input": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}]
    density = hessian_density(model, batches, n_probes=1, loss=lambda o, b: o[:, 0] ** 2, progress=False)
    np.testing.assert_allclose(density.nodes, [[1, 9]], rtol=1e-6)
    np.testing.assert_allclose(density.weights, [[0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("name", ["Bert", "GPT2", "T5", "Llama", "Bart"])
def test_attention_of_every_kind_is_differentiated_twice_by_itself(name):
    case = build(name, dtype=torch.float64)
    before = getattr(case.model.config, "_attn_implementation", None)
    vectors = np.random.default_rng(0).normal(size=(2, sum(p.numel() for p in case.model.parameters())))
    with Hessian(case.model, [case.batch]) as hessian:
        a, b = vectors
        # a Hessian is symmetric, and linear
        assert a @ (hessian @ b) == pytest.approx(b @ (hessian @ a), rel=1e-5)
        product = hessian @ a
    assert getattr(case.model.config, "_attn_implementation", None) == before
    # against a central difference of gradients along a
    parameters = list(case.model.parameters())
    step = 3e-3 / np.linalg.norm(a)  # not smaller: T5 and Llama compute their norms in float32 whatever the weights are

    def gradient(sign):
        start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
        torch.nn.utils.vector_to_parameters(start + sign * step * torch.from_numpy(a), parameters)
        grads = torch.autograd.grad(sequence_losses(case.model, case.batch).mean(), parameters, allow_unused=True)
        torch.nn.utils.vector_to_parameters(start, parameters)
        return np.concatenate(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1).numpy()
                for p, g in zip(parameters, grads, strict=True)
            ]
        )

    expected = (gradient(1) - gradient(-1)) / (2 * step)
    np.testing.assert_allclose(product, expected, atol=5e-3 * np.abs(expected).max())


def test_the_model_is_left_as_it_was(tiny_bert, tiny_batches):
    tiny_bert.train()
    frozen = tiny_bert.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    weights = {name: value.clone() for name, value in tiny_bert.state_dict().items()}
    rng = torch.get_rng_state()
    stop = threading.Event()
    stop.set()
    for call in (
        lambda: hessian_trace(tiny_bert, tiny_batches, 2, progress=False),
        lambda: hessian_spectrum(tiny_bert, tiny_batches, k=1, tolerance=0.1, progress=False),
        lambda: hessian_spectrum(tiny_bert, tiny_batches, k=1, progress=False, stop=stop),
        lambda: hessian_density(tiny_bert, tiny_batches, n_probes=1, n_steps=3, progress=False),
        lambda: hessian_trace(tiny_bert, tiny_batches, 2, progress=False, loss=lambda outputs, batch: 1 / 0),
    ):
        with contextlib.suppress(RuntimeError, ZeroDivisionError):
            call()
        assert tiny_bert.training
        assert not frozen.requires_grad
        assert all(p.grad is None for p in tiny_bert.parameters())
        assert all(torch.equal(value, weights[name]) for name, value in tiny_bert.state_dict().items())
        assert torch.equal(torch.get_rng_state(), rng)


def test_what_has_not_converged_says_so(small):
    model, batches, _ = small
    spectrum = hessian_spectrum(
        model, batches, k=5, which="LM", tolerance=1e-12, max_iterations=1, basis=7, progress=False
    )
    assert len(spectrum.eigenvalues) < 5 or not spectrum.converged.all()
    assert len(spectrum.directions) == len(spectrum.residuals) == len(spectrum.eigenvalues)
    repr(spectrum), spectrum._repr_html_()


class After:
    """An event that is set after so many looks at it; `then` is called at the last."""

    def __init__(self, looks, then=lambda: None):
        self.looks, self.then = looks, then

    def is_set(self):
        self.looks -= 1
        if self.looks < 0:
            self.then()
        return self.looks < 0


def test_a_stopped_trace_keeps_its_probes(tiny_bert, tiny_batches):
    assert hessian_trace(tiny_bert, tiny_batches, 9, progress=False, stop=After(3)).n_probes == 3


def test_a_stopped_density_keeps_its_probes(tiny_bert, tiny_batches):
    settings = dict(n_probes=4, n_steps=5, progress=False)
    whole = hessian_density(tiny_bert, tiny_batches, **settings)
    found = hessian_density(tiny_bert, tiny_batches, stop=After(13), **settings)  # in the middle of the third
    np.testing.assert_array_equal(found.nodes, whole.nodes[:2])
    with pytest.raises(RuntimeError, match="before its first probe"):
        hessian_density(tiny_bert, tiny_batches, stop=After(3), **settings)


@pytest.mark.parametrize(("which", "products"), [("LA", 45), ("SA", 30), ("LM", 25), ("BE", 24)])
def test_a_stopped_spectrum_is_the_best_that_its_products_know(small, which, products):
    model, batches, dense = small
    found = hessian_spectrum(
        model, batches, k=3, which=which, tolerance=1e-14, basis=12, progress=False, stop=After(products)
    )
    assert found.n_products == products  # it used no more
    assert not found.converged.any()
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    true = {"LA": values[:-4:-1], "SA": values[2::-1], "BE": values[[-1, -2, 0]]}
    true["LM"] = np.sort(values[np.argsort(-abs(values))[:3]])[::-1]
    # the ends come first, whatever the restarts threw away; and Ritz values lie within the spectrum
    np.testing.assert_allclose(found.eigenvalues, true[which], rtol=0.02)
    assert values[0] - 1e-6 <= found.eigenvalues.min() <= found.eigenvalues.max() <= values[-1] + 1e-6
    for value, direction, residual in zip(found.eigenvalues, found.directions, found.residuals, strict=True):
        vector = np.concatenate([direction.vectors[name].reshape(-1).numpy() for name, _ in model.named_parameters()])
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert residual == pytest.approx(np.linalg.norm(dense @ vector - value * vector) / abs(value), rel=0.01)


def test_a_stopped_spectrum_is_not_converged_however_small_its_residuals(small):
    model, batches, _ = small
    found = hessian_spectrum(model, batches, k=1, tolerance=0.09, basis=15, progress=False, stop=After(14))
    assert found.residuals.min() < 10 * 0.09  # what would count as converged at the end of a search
    assert not found.converged.any()


def test_a_spectrum_stopped_early_has_fewer_pairs_and_ctrl_c_stops_it_too(small):
    import signal

    model, batches, _ = small
    pressed = After(2, then=lambda: signal.raise_signal(signal.SIGINT))  # looked at before each product
    pressed.is_set = lambda real=pressed.is_set: real() and False
    found = hessian_spectrum(model, batches, k=3, progress=False, stop=pressed)
    assert (len(found.eigenvalues), found.n_products) == (3, 3)  # the product in hand is finished
    repr(found), found._repr_html_(), found.to_frame()
    assert len(hessian_spectrum(model, batches, k=3, progress=False, stop=After(1)).eigenvalues) == 1
    with pytest.raises(RuntimeError, match="before it knew anything"):
        hessian_spectrum(model, batches, k=3, progress=False, stop=After(0))
    with pytest.raises(RuntimeError, match="before it knew anything"):
        hessian_spectrum(model, batches, k=3, progress=False, stop=After(5), keep=False)


def test_seeds_repeat_and_differ(tiny_bert, tiny_batches):
    first = hessian_trace(tiny_bert, tiny_batches, 2, progress=False)
    assert (first.samples == hessian_trace(tiny_bert, tiny_batches, 2, progress=False).samples).all()
    assert (first.samples != hessian_trace(tiny_bert, tiny_batches, 2, seed=1, progress=False).samples).any()


def test_bad_arguments_are_named(tiny_bert, tiny_batches):
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module or a Pretrained"):
        hessian_trace("bert-mini", tiny_batches)
    with pytest.raises(ValueError, match="n_probes"):
        hessian_trace(tiny_bert, tiny_batches, 1)
    with pytest.raises(ValueError, match="expected k"):
        hessian_spectrum(tiny_bert, tiny_batches, k=0)
    with pytest.raises(ValueError, match="which to be one of"):
        hessian_spectrum(tiny_bert, tiny_batches, which="largest")
    with pytest.raises(ValueError, match="at least one batch"):
        hessian_trace(tiny_bert, [])
    with pytest.raises(ValueError, match="n_steps"):
        hessian_density(tiny_bert, tiny_batches, n_steps=0)
    nothing = select(tiny_bert, ["cls.predictions.bias"]) & ~select(tiny_bert, ["cls.predictions.bias"])
    with pytest.raises(ValueError, match="empty selection"):
        hessian_spectrum(tiny_bert, tiny_batches, selection=nothing, k=1)
    few = random_k(tiny_bert, 3)
    with pytest.raises(ValueError, match="from 1 to 2"):
        hessian_spectrum(tiny_bert, tiny_batches, selection=few, k=3)


def test_saved_results_are_the_same(tiny_bert, tiny_batches, tmp_path):
    chosen = random_k(tiny_bert, 40)
    settings = dict(selection=chosen, progress=False)
    trace = hessian_trace(tiny_bert, tiny_batches, 2, parts={"some": random_k(tiny_bert, 900)}, **settings)
    density = hessian_density(tiny_bert, tiny_batches, n_probes=1, n_steps=3, **settings)
    spectrum = hessian_spectrum(tiny_bert, tiny_batches, k=2, **settings)
    for result in (trace, density, spectrum):
        result.save(tmp_path / "result.safetensors")
        again = type(result).load(tmp_path / "result.safetensors")
        assert repr(again) == repr(result)
        assert again.to_frame().equals(result.to_frame())
        if isinstance(result, HessianTrace):
            assert again.to_frame("part").equals(result.to_frame("part"))
    for a, b in zip(again.directions, spectrum.directions, strict=True):
        assert (a.label, a.selection, list(a.vectors)) == (b.label, b.selection, list(b.vectors))
        assert all(torch.equal(a.vectors[name], b.vectors[name]) for name in a.vectors)
    with pytest.raises(ValueError, match=r"written by HessianTrace\.save"):
        HessianTrace.load(tmp_path / "result.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        HessianTrace.load(tmp_path / "none.safetensors")


def test_the_operators_methods_are_the_functions(small):
    model, batches, _ = small
    chosen = random_k(model, 40)
    hessian, over = Hessian(model, batches, chosen), dict(selection=chosen, progress=False)
    trace, expected = hessian.trace(2, seed=3, progress=False), hessian_trace(model, batches, 2, seed=3, **over)
    assert (trace.samples == expected.samples).all()
    found, expected = (
        hessian.spectrum(2, which="SA", progress=False),
        hessian_spectrum(model, batches, 2, which="SA", **over),
    )
    assert (found.eigenvalues == expected.eigenvalues).all()
    density = hessian.density(n_probes=1, n_steps=4, progress=False)
    assert (density.nodes == hessian_density(model, batches, n_probes=1, n_steps=4, **over).nodes).all()
    curvature = hessian.by_sequence(1, progress=False)
    assert (curvature.traces == sequence_curvature(model, batches, 1, **over).traces).all()


def test_products_need_no_context_and_contexts_may_be_nested(small):
    model, batches, _ = small
    hessian = Hessian(model, batches)
    vector = np.random.default_rng(0).normal(size=hessian.shape[0])
    alone = hessian @ vector
    assert all(p.requires_grad for p in model.parameters())
    with hessian, hessian:
        assert (hessian.matvec(vector) == alone).all()
        hessian.trace(2, progress=False)
        assert (hessian @ vector == alone).all()  # the inner context has not ended the outer one
    with pytest.raises(ValueError, match=f"expected a vector of {len(vector):,} entries, got 3"):
        hessian.matvec(np.ones(3))
