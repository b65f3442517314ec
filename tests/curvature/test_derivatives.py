"""Are second derivatives those of the model itself, whatever surrounds it, or refused in one line?"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gdrop_viz.curvature import Hessian, hessian_spectrum, hessian_trace, sequence_curvature
from gdrop_viz.curvature.differentiation import disagreement
from gdrop_viz.fisher import fisher_information
from gdrop_viz.landscape import loss_surface
from gdrop_viz.perturbation import gradient_direction, random_direction, random_k, select, top_k
from tests.conftest import random_bert
from tests.perturbation.test_selection import fisher_like
from tests.zoo import build

INPUTS = {"input": torch.randn(5, 4, generator=torch.Generator().manual_seed(1))}


def square(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return outputs[:, 0] ** 2


class Layers(nn.Module):
    """Two layers with `inside` between them."""

    def __init__(self, inside=torch.tanh, *, hidden=lambda layer, x: layer(x)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.inside, self.hidden = nn.Linear(4, 8), nn.Linear(8, 1), inside, hidden

    def forward(self, input: Tensor) -> Tensor:
        return self.b(self.hidden(lambda x: self.inside(self.a(x)), input))


def product_of(model: nn.Module, batch=None, **settings) -> np.ndarray:
    loss = settings.pop("loss", square)
    hessian = Hessian(model, [INPUTS if batch is None else batch], loss=loss, **settings)
    return hessian @ np.linspace(-1, 1, hessian.shape[0], dtype=hessian.dtype)


# --- the surroundings -------------------------------------------------------------------------------------------------

SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast of another type": lambda: torch.autocast("cpu", dtype=torch.float16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_callers_surroundings_change_nothing(tiny_bert, tiny_batches, name):
    expected = hessian_trace(tiny_bert, tiny_batches, 2, progress=False).samples
    gradient = gradient_direction(tiny_bert, tiny_batches)
    with SURROUNDINGS[name]():
        batches = [{key: value.clone() for key, value in batch.items()} for batch in tiny_batches]
        found = hessian_trace(tiny_bert, batches, 2, progress=False).samples
        assert torch.is_autocast_enabled("cpu") == name.startswith("autocast")
        assert torch.is_grad_enabled() == name.startswith("autocast")
        direction = gradient_direction(tiny_bert, batches)
        curvature = sequence_curvature(tiny_bert, batches, 1, progress=False)
    assert (found == expected).all()
    assert all(torch.equal(direction.vectors[n], gradient.vectors[n]) for n in gradient.vectors)
    assert (curvature.traces == sequence_curvature(tiny_bert, tiny_batches, 1, progress=False).traces).all()


def test_weights_that_autograd_refuses_are_named():
    with torch.inference_mode():
        model = Layers()
    for call in (product_of, lambda m: gradient_direction(m, [INPUTS], loss=square)):
        with pytest.raises(ValueError, match=r"got 'a.weight' made inside torch\.inference_mode"):
            call(model)


def test_half_precision_that_overflows_is_blamed_on_itself(tiny_batches):
    linear = nn.Linear(1, 1, bias=False).half()
    nn.init.constant_(linear.weight, 0.25)
    batch = {"input": torch.full((1, 1), 300.0, dtype=torch.float16)}  # H = 2 x² = 180,000
    with pytest.raises(ValueError, match=r"'weight' is not finite .* float16 overflows: take the weights as model\.f"):
        product_of(linear, batch, loss=lambda outputs, batch: outputs[:, 0].float() ** 2)
    with pytest.raises(ValueError, match=r"float16 overflows"):
        hessian_trace(random_bert().half(), tiny_batches, 2, progress=False)
    sound = product_of(linear.float(), {"input": batch["input"].float()})
    assert np.isfinite(sound).all()


# --- what autograd does not see ---------------------------------------------------------------------------------------


def without_graph(layer, x):
    with torch.no_grad():
        return layer(x)


HIDDEN = {
    "reentrant checkpointing": lambda layer, x: checkpoint(layer, x, use_reentrant=True),
    "no_grad": without_graph,
    "detached": lambda layer, x: layer(x).detach(),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", HIDDEN)
def test_parameters_that_autograd_does_not_see_are_named(name):
    model = Layers(hidden=HIDDEN[name])
    before = {n: p.clone() for n, p in model.named_parameters()}
    for call in (product_of, lambda m: gradient_direction(m, [INPUTS], loss=square)):
        with pytest.raises(ValueError, match=r"got none by a\.weight, a\.bias although they change with it"):
            call(model)
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


class WithTable(Layers):
    """Adds a table that the model keeps fixed by itself, as sinusoidal positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(0, 1, 4), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + self.table.detach())


def test_what_a_model_keeps_fixed_is_a_constant():
    case = build("Pegasus")
    assert not case.model.model.decoder.embed_positions.weight.requires_grad
    assert hessian_trace(case.model, [case.batch], 2, progress=False).samples.any()
    model = WithTable()
    found = Hessian(model, [INPUTS], loss=square)
    here = dict(zip(found.names, np.split(found @ np.ones(53, np.float32), np.cumsum(found.sizes)[:-1]), strict=True))
    assert not here.pop("table").any()
    plain = Hessian(Layers(), [{"input": INPUTS["input"] + model.table}], loss=square)
    np.testing.assert_allclose(np.concatenate(list(here.values())), plain @ np.ones(49, np.float32), rtol=1e-5)
    assert "table" in gradient_direction(model, [INPUTS], loss=square).vectors
    model.requires_grad_(False)  # a wholly frozen model says nothing about what it keeps fixed
    with pytest.raises(ValueError, match="got none by table although"):
        gradient_direction(model, [INPUTS], loss=square)


FIXED = {
    "RoFormer": ("RoFormerForMaskedLM", "roformer.encoder.embed_positions.weight"),
    "Marian": ("MarianMTModel", "model.encoder.embed_positions.weight, model.decoder.embed_positions.weight"),
    "Pegasus": (
        "PegasusForConditionalGeneration",
        "model.encoder.embed_positions.weight, model.decoder.embed_positions.weight",
    ),
}


def with_sinusoids(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A small model in float64 whose weights are large enough for positions to matter, and a batch."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if name != "RoFormer":
        sides = ("encoder", "decoder")
        sizes = {"d_model": 16, "decoder_start_token_id": 0}
        for side in sides:
            sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 32}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=40, max_position_embeddings=16, pad_token_id=0, eos_token_id=1, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, FIXED[name][0])(config).double().eval()
        ids = torch.randint(4, 40, (2, 6))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


@pytest.mark.parametrize("name", FIXED)
def test_sinusoidal_tables_are_constants_whatever_their_flags_say(name, tmp_path):
    built, batch = with_sinusoids(name)
    tables = FIXED[name][1].split(", ")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # nothing to say: the flags are off
        expected = hessian_trace(built, [batch], 2, progress=False)
    built.save_pretrained(tmp_path)
    loaded = type(built).from_pretrained(tmp_path, dtype=torch.float64).eval()
    weights = dict(loaded.named_parameters())
    assert all(weights[table].requires_grad for table in tables)  # loading has lost the flags
    loaded(**batch).loss.backward()
    assert {n for n, p in weights.items() if p.grad is None} == set(tables)  # and training passes them by
    loaded.zero_grad()
    frozen = type(built).from_pretrained(tmp_path, dtype=torch.float64).eval().requires_grad_(False)
    for model in (loaded, frozen):
        with pytest.warns(RuntimeWarning, match=rf"{FIXED[name][1]}: kept fixed by its own module"):
            found = hessian_trace(model, [batch], 2, progress=False)
        np.testing.assert_array_equal(found.samples, expected.samples)
        with pytest.warns(RuntimeWarning, match="kept fixed by its own module"):
            direction = gradient_direction(model, [batch])
        assert not any(direction.vectors[table].any() for table in tables)
    scores = fisher_information(loaded, [batch], progress=False).scores
    assert not any(scores[table].any() for table in tables)


class Table(nn.Module):
    """Rows by position, given out as constants, although nothing says so of the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.linspace(-1, 1, 20).reshape(5, 4))

    def forward(self, positions: Tensor) -> Tensor:
        return self.rows.detach()[positions]


class Scale(nn.Module):
    """Weights that are trained, but for a no_grad in their own forward: activations pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(1, 2, 4))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class WithRows(Layers):
    def __init__(self, *, scale: bool = False, hidden_call: bool = False) -> None:
        super().__init__()
        self.table, self.scale = Table(), Scale() if scale else nn.Identity()
        self.hidden_call = hidden_call

    def forward(self, input: Tensor) -> Tensor:
        positions = torch.arange(len(input)) % 5
        with torch.set_grad_enabled(not self.hidden_call):
            rows = self.table(positions)
        return super().forward(self.scale(input + rows))


@pytest.mark.parametrize("wrapper", ["plain", "compile in place", "compile", "data parallel"])
def test_a_table_that_its_module_gives_out_as_a_constant(wrapper):
    model = WithRows() if wrapper == "plain" else WRAPPERS[wrapper](WithRows())
    batch = {"input": INPUTS["input"][:2]}
    with pytest.warns(RuntimeWarning, match=r"^table\.rows: kept fixed by its own module"):
        found = product_of(model, batch)
    n = sum(p.numel() for p in Layers().parameters())
    plain = Hessian(Layers(), [{"input": batch["input"] + WithRows().table(torch.arange(2))}], loss=square)
    expected = plain @ np.linspace(-1, 1, n + 20, dtype=np.float32)[:n]
    np.testing.assert_allclose(found[:n], expected, rtol=1e-5)
    assert not found[n:].any()
    with pytest.warns(RuntimeWarning, match=r"^table\.rows: kept fixed"):
        gradient_direction(model, [batch], loss=square)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (WithRows(scale=True), r"scale\.factor"),  # beside a table that is fixed
        (WithRows(hidden_call=True), r"table\.rows"),  # hidden by its caller
    ],
    ids=["activations pass", "hidden by the caller"],
)
def test_no_grad_around_trainable_weights_is_refused_beside_a_table(model, names):
    for call in (product_of, lambda m: gradient_direction(m, [INPUTS], loss=square)):
        with pytest.raises(ValueError, match=rf"got none by {names} although they change with it"):
            call(model)


def test_a_selected_table_alone_is_refused():
    model = WithRows()
    with pytest.raises(ValueError, match=r"got none by table\.rows although"):
        gradient_direction(model, [INPUTS], loss=square, selection=select(model, ["table.rows"]))


def test_other_checkpointing_is_right():
    again = Layers(hidden=lambda layer, x: checkpoint(layer, x, use_reentrant=False))
    np.testing.assert_allclose(product_of(again), product_of(Layers()), rtol=1e-6)


class WithIdle(Layers):
    """A parameter that takes no part, and one that only decides between two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.choice = nn.Parameter(torch.ones(3)), nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input if int(self.choice.argmax()) == 0 else -2 * input)


def test_parameters_that_take_no_part_have_zeros():
    model = WithIdle()
    hessian = Hessian(model, [INPUTS], loss=square)
    assert hessian.names[:2] == ["unused", "choice"]
    vector = np.linspace(-1, 1, hessian.shape[0], dtype=np.float32)
    found = hessian @ vector
    assert not found[:5].any()
    plain = Hessian(Layers(), [INPUTS], loss=square)
    np.testing.assert_allclose(found[5:], plain @ vector[5:], rtol=1e-6)


# --- wrong and missing second derivatives -----------------------------------------------------------------------------


class ForgetfulTanh(torch.autograd.Function):
    """tanh whose backward does not depend on x for autograd: the gradient is right, the second derivative is not."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = 1 - torch.tanh(x).detach() ** 2
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class OnceTanh(ForgetfulTanh):
    """Said to have no second derivative; autograd then takes the gradient for a constant, and does not say so."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.slope


class DoubledTanh(torch.autograd.Function):
    """Its second derivative is twice too large."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        exact = 1 - torch.tanh(x) ** 2
        return g * (2 * exact - exact.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [ForgetfulTanh, DoubledTanh, OnceTanh])
def test_a_wrong_second_derivative_is_refused(function, dtype):
    model = Layers(function.apply).to(dtype)
    before = {n: p.clone() for n, p in model.named_parameters()}
    batch = {"input": INPUTS["input"].to(dtype)}
    with pytest.raises(ValueError, match=r"agree with differences of gradients, got \d+% off in '[ab]\.(weight|bias)'"):
        product_of(model, batch)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert gradient_direction(model, [batch], loss=square).norm > 0  # the first derivative is right


class RaisingTanh(DoubledTanh):
    """As kernels without a second derivative do."""

    @staticmethod
    def backward(ctx, g):
        if torch.is_grad_enabled():
            raise NotImplementedError("derivative for aten::some_kernel_backward is not implemented")
        return super(RaisingTanh, RaisingTanh).backward(ctx, g)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_missing_second_derivative_is_one_line():
    model = Layers(RaisingTanh.apply)
    with pytest.raises(ValueError, match=r"from autograd: derivative for aten::some_kernel.* the model's plain form"):
        product_of(model)
    assert gradient_direction(model, [INPUTS], loss=square).norm > 0
    below = nn.Sequential(nn.Linear(4, 4), Layers(hidden=HIDDEN["reentrant checkpointing"]))  # its input has a gradient
    with pytest.raises(ValueError, match=r"reentrant checkpointing: use checkpoint.*use_reentrant=False"):
        product_of(below)


@pytest.mark.parametrize("inside", [torch.relu, torch.abs, nn.functional.hardtanh])
def test_kinks_are_not_taken_for_errors(inside):
    """Differences across a kink are not the derivative; 20 models, so that some cross one."""
    for seed in range(20):
        model = Layers(inside)
        torch.manual_seed(seed)
        nn.init.normal_(model.a.weight)
        nn.init.normal_(model.b.weight)
        product_of(model)


def test_only_differences_that_agree_are_believed():
    product = np.array([1.0, 1.0, 2.0])
    right, noisy = product + 1e-4, np.array([3.0, -1.0, 0.0])
    assert disagreement(product, [right, right, noisy], [1, 2]) is None
    assert disagreement(product, [noisy, right, 2 * right], [1, 2]) is None  # no two agree
    wrong = np.array([1.0, 1.1, 2.2])
    block, off = disagreement(product, [noisy, wrong, wrong], [1, 2])
    assert (block, off) == (1, pytest.approx(1 - 1 / 1.1))
    # a small block is judged by itself; one of rounding is not judged
    small = np.array([1.0, 1e-2, 1e-9])
    assert disagreement(small, [small * [1, 2, 9]] * 2, [1, 1, 1])[0] == 1


def test_a_fourier_transform_is_differentiated_twice():
    from transformers import FNetConfig, FNetForMaskedLM

    torch.manual_seed(0)
    config = FNetConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, intermediate_size=32, max_position_embeddings=16
    )
    model = FNetForMaskedLM(config).eval().double()
    ids = torch.randint(5, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids}
    parameters = list(model.parameters())
    a = np.random.default_rng(0).normal(size=sum(p.numel() for p in parameters))

    def gradient(step):
        start = nn.utils.parameters_to_vector(parameters).detach().clone()
        nn.utils.vector_to_parameters(start + step * torch.from_numpy(a), parameters)
        logits = model(input_ids=ids).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        nn.utils.vector_to_parameters(start, parameters)
        return np.concatenate(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1).numpy()
                for p, g in zip(parameters, found, strict=True)
            ]
        )

    step = 1e-4 / np.linalg.norm(a)
    expected = (gradient(step) - gradient(-step)) / (2 * step)
    found = Hessian(model, [batch]) @ a
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())  # differences: step², rounding


def test_flex_attention_is_right_or_refused(tiny_bert, tiny_batches):
    vector = np.random.default_rng(0).normal(size=sum(p.numel() for p in tiny_bert.parameters())).astype(np.float32)
    expected = Hessian(tiny_bert, tiny_batches) @ vector
    hessian = Hessian(tiny_bert, tiny_batches)
    tiny_bert.set_attn_implementation("flex_attention")
    np.testing.assert_allclose(hessian @ vector, expected, atol=1e-5 * np.abs(expected).max())
    assert tiny_bert.config._attn_implementation == "flex_attention"
    with pytest.raises(ValueError, match="got 'flex_attention'"):
        Hessian(tiny_bert, tiny_batches)


# --- wrappers and storage formats -------------------------------------------------------------------------------------


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


WRAPPERS = {
    "compile": lambda model: torch.compile(model, backend="aot_eager"),
    "compile in place": compiled_in_place,
    "data parallel": nn.DataParallel,
    "compiled inside": lambda model: Layers(torch.compile(torch.tanh, backend="aot_eager")),
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="aot_eager"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_models_have_the_plain_models_names_and_derivatives(name):
    plain, wrapped = Layers(), WRAPPERS[name](Layers())
    wrapped(INPUTS["input"])
    chosen = random_k(plain, 0.5)
    assert random_k(wrapped, 0.5).names == chosen.names
    assert (product_of(wrapped, selection=chosen) == product_of(plain, selection=chosen)).all()
    assert list(random_direction(wrapped, selection=chosen).vectors) == ["a.weight", "b.weight"]
    there, here = (gradient_direction(model, [INPUTS], loss=square) for model in (wrapped, plain))
    assert all(torch.equal(there.vectors[n], here.vectors[n]) for n in here.vectors)
    surface = loss_surface(wrapped, [INPUTS], [here], points=3, loss=square, progress=False)  # names fit there too
    expected = loss_surface(plain, [INPUTS], [here], points=3, loss=square, progress=False)
    np.testing.assert_allclose(surface.loss, expected.loss, rtol=1e-6)


class Quantized(Layers):
    """A layer more whose weights are stored in eight bits."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        stored = (10 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
        self.stored = nn.Parameter(stored, requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input @ (self.stored.to(input.dtype) / 10))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits_are_never_selected_and_refused_by_name(dtype):
    model = Quantized(dtype)
    assert "stored" not in random_k(model, 1.0).names
    for call in (random_direction, product_of):
        with pytest.raises(ValueError, match=r"at least 16 bits, got 'stored' of type float8"):
            call(model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_integer_weights_are_left_out_by_name(dtype):
    model = Quantized(dtype)
    n = sum(p.numel() for p in Layers().parameters())
    everything = random_k(model, 1.0)
    assert (everything.n_total, "stored" in everything.names) == (n, False)
    assert set(random_direction(model, move_vectors=True).vectors) == set(dict(Layers().named_parameters()))
    hessian = Hessian(model, [INPUTS], loss=square)
    assert hessian.shape == (n, n)
    assert hessian.label == "all parameters but stored, which are quantized"
    # as if its inputs had been multiplied before
    before = {"input": INPUTS["input"] @ (model.stored.detach().float() / 10)}
    np.testing.assert_allclose(product_of(model), product_of(Layers(), before), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="got 'stored'"):
        select(model, ["stored"])


def test_weights_that_are_not_in_memory_are_named(tiny_bert, tiny_batches):
    fisher = fisher_like(tiny_bert)
    chosen, away = top_k(fisher, 0.1), random_bert().to("meta")
    for call in (
        lambda: hessian_spectrum(away, tiny_batches, 1, progress=False),
        lambda: random_direction(away),
        lambda: gradient_direction(away, tiny_batches),
        lambda: chosen.summary(model=away),
    ):
        with pytest.raises(ValueError, match=r"the weight 'bert.embeddings.word_embeddings.weight' is not in memory"):
            call()
    assert random_k(away, 700).n_elements == 700  # shapes suffice
