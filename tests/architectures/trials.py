"""One pair's trial: loss, Fisher scores, dropout, a surface and a trace, each held against brute force.

Brute force is the model's own loss of each row alone, without padding, and autograd: no code of ours. What a part of
the trial gives is one of "exact", "single precision" (equal to 1e-4), "refused: ..." (our own one-line error),
"WRONG: ..." (a number that is not right, and nobody says so), "RAW: ..." (an error from deep inside).
"""

from __future__ import annotations

import copy
import dis
import traceback
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.shrunken import Pair, batches_of, build
from tests.unchanged import differences, snapshot

RATE = 0.3


def trial(pair: Pair) -> dict[str, str]:
    """What each part of the work gives for one pair; "built" says why there is no model, if there is none."""
    reasons = []
    for dtype, same_length in product((torch.float64, torch.float32), (False, True)):

        def check(model: nn.Module, same_length: bool = same_length) -> None:
            if not torch.isfinite(_own_loss(model, _rows(_batches(pair, model, same_length)[0])[1])):
                raise RuntimeError("its own loss is not finite")

        try:
            model = build(pair, dtype=dtype, check=check)
            break
        except RuntimeError as error:
            reasons.append(str(error))
    else:
        return {"built": f"no: {reasons[0]}"}
    found = {"class": type(model).__name__, "built": str(dtype).removeprefix("torch.")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _Trial(pair, model, _batches(pair, model, same_length)).run(found)
    return found


class _Trial:
    def __init__(self, pair: Pair, model: nn.Module, batches: list[dict[str, Tensor]]) -> None:
        self.pair, self.model = pair, model
        self.ragged, self.square = batches
        self.batch = self.ragged  # what surface and trace see: without padding where padding is refused
        self.fisher: Any = None
        self.said: set[str] = set()

    def run(self, found: dict[str, str]) -> None:
        inside = {id(module) for module in self.model.base_model.modules()}
        for module in self.model.modules():  # a schedule is of the backbone: the head's own dropout is another matter
            if isinstance(module, nn.Dropout) and id(module) not in inside:
                module.p = 0.0
        before = snapshot(self.model)
        for batch in (self.ragged, self.square):
            _own_loss(self.model, batch)
        own_changes = differences(before, snapshot(self.model))  # of the model's own forward
        before = snapshot(self.model)
        for name, part in (
            ("loss", self.losses), ("scores", self.scores), ("dropout", self.dropout), ("guided", self.guided),
            ("surface", self.surface), ("trace", self.trace),
        ):  # fmt: skip
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RuntimeWarning)
                found[name] = _outcome(part)
            self.said |= {str(warning.message) for warning in caught if "gdrop_viz" in warning.filename}
            changed = [c for c in differences(before, snapshot(self.model)) if c.startswith("model")]
            changed = [c for c in changed if c not in own_changes]
            if changed:
                found[name] += f"; WRONG: changed {', '.join(changed)}"
                before = snapshot(self.model)
        if self.said:
            found["said"] = " ".join(sorted(self.said))

    def losses(self) -> str:
        """Ours against the model's own on a batch without padding, and against each row alone on ragged ones."""
        from gdrop_viz.models.losses import sequence_losses

        def ours(batch: dict[str, Tensor]) -> Tensor:
            with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RuntimeWarning)
                losses = sequence_losses(self.model, batch)
            self.said |= {str(warning.message) for warning in caught}
            return losses

        together = ours(self.square).mean()
        with torch.no_grad():
            own = self.truth(self.square)
            alone = torch.stack([self.truth(row) for row in _rows(self.ragged)])
            one_by_one = torch.stack([self.truth(row) for row in _rows(self.square)])
        if _far(together, own, 1e-4):
            return f"WRONG: {float(together):.6g} where the model's own is {float(own):.6g}"
        exact = "exact" if not _far(together, own, 1e-9) else "single precision"
        if _far(ours(self.square), one_by_one, 1e-4) and not self.mixes:
            return f"WRONG: a row's loss depends on its batch: {_listed(ours(self.square))} where {_listed(one_by_one)}"
        padded = [("padded", self.ragged)]
        padded += [("padded on the left", _padded_left(self.ragged))] if _reads_on(self.pair, self.model) else []
        for name, batch in padded:
            try:
                found = ours(batch)
            except (ValueError, TypeError, RuntimeError) as error:
                outcome = _failure(error)
                if outcome.startswith("RAW"):
                    return outcome
                self.batch = self.square if name == "padded" else self.batch
                exact += f"; {name} {outcome}"
                continue
            if _far(found, alone, 1e-4) and not self.mixes:
                return f"WRONG: {name} {_listed(found)} where alone {_listed(alone)}"
        return exact

    @property
    def mixes(self) -> bool:
        """Whether it was said that the sequences of a batch depend on each other."""
        return any("influence each other" in line for line in self.said)

    def truth(self, batch: dict[str, Tensor]) -> Tensor:
        """The model's own loss; that of the next token where it was said that its own does not shift.

        With decoder inputs from the labels where it was said that its own come from elsewhere.
        """
        if any("does not make its decoder's inputs from its labels" in line for line in self.said):
            made = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"].clone())
            batch = {**batch, "decoder_input_ids": made}
        if not any("does not shift its labels" in line for line in self.said):
            return _own_loss(self.model, batch)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = self.model(**inputs).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    def scores(self) -> str:
        """Every parameter's score at both resolutions, on batches of several shapes."""
        import gdrop_viz as gv

        rows = [_rows(self.ragged), _rows(self.square)]
        squares = [[self.squared_gradients(row) for row in part] for part in rows]
        worst, looped, remarks = 0.0, 0, ""
        for name, batches, truth in (
            ("N = T", [self.square], squares[1]),
            ("one sequence first", [rows[1][0], _take(self.square, slice(1, 3))], squares[1][:3]),
            ("padded", [self.ragged], squares[0]),
        ):
            expected = {key: torch.stack([row[key] for row in truth]).mean(0) for key in truth[0]}
            largest = max(float(score.max()) for score in expected.values() if score.numel())
            try:
                fisher = gv.fisher_information(self.model, batches, progress=False)
                tensor = gv.fisher_information(self.model, batches, resolution="tensor", progress=False)
            except (ValueError, TypeError, RuntimeError) as error:
                refused = _failure(error)
                if refused.startswith("RAW") or name != "padded":
                    return f"{name}: {refused}"
                remarks += f"; padded {refused}"
                continue
            looped = max(looped, len(fisher.looped))
            for key, score in expected.items():
                if key not in fisher.scores or not score.numel():
                    continue
                off = float((fisher.scores[key] - score).abs().max()) / (float(score.max()) + 1e-6 * largest)
                mean = float(score.mean())
                off = max(off, abs(float(tensor.means[key]) - mean) / (mean + 1e-6 * largest))
                if (off > 2e-3 or off != off) and not self.mixes:
                    return f"WRONG: {name}: scores of {key} are {off:.1%} off"
                worst = max(worst, off)
            missing = len(expected.keys() - fisher.means.index)
            if missing:
                remarks += f"; {missing} parameters left out ({name})"
            self.fisher = self.fisher or fisher
        exact = "exact" if worst < 1e-6 else "single precision" if worst < 2e-3 else "of rows that depend on each other"
        exact += f", {looped} parameters through the loop" if looped else ""
        return exact + remarks

    def squared_gradients(self, row: dict[str, Tensor]) -> dict[str, Tensor]:
        """(∂L/∂θ)² of a row alone."""
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(self.truth(row), list(parameters.values()), allow_unused=True)
        return {
            name: torch.zeros_like(p) if gradient is None else gradient.detach() ** 2
            for (name, p), gradient in zip(parameters.items(), found, strict=True)
        }

    def dropout(self) -> str:
        """The rates that a training-mode forward really uses under a uniform schedule, seen at the calls of torch."""
        import gdrop_viz as gv

        sites = gv.dropout_sites(self.model)
        free = [site.name for site in sites if not site.controllable]
        with gv.uniform_dropout(self.model, RATE).applied(self.model):
            used: set[float] = set()
            for seed in range(3):
                # a copy: some models keep what a forward in training has seen
                used |= _rates_used(copy.deepcopy(self.model), self.ragged if seed else self.square, seed)
        odd = sorted(rate for rate in used if rate and abs(rate - RATE) > 1e-9)
        if odd and not free:
            return f"WRONG: rates {odd} are used beside {RATE}"
        if not any(abs(rate - RATE) < 1e-9 for rate in used) and sites and not free:
            return f"WRONG: {len(sites)} sites, and rate {RATE} is never used"
        return f"{len(sites)} sites" + (f", {len(free)} without control" if free else "")

    def guided(self) -> str:
        import gdrop_viz as gv

        if self.fisher is None:
            return "not tried"
        schedule = gv.guided_dropout(self.model, self.fisher)
        with schedule.applied(self.model):
            measured = gv.measured_dropout(self.model)
        off = [name for name, rate in schedule.rates.items() if abs(measured.get(name, -1) - rate) > 1e-9]
        return f"WRONG: {off[:3]} have other rates" if off else "exact"

    def surface(self) -> str:
        """Finite, the trained weights' own loss at the centre, and every bit back in its place (seen by `run`)."""
        import gdrop_viz as gv

        direction = gv.random_direction(self.model, seed=0)
        surface = gv.loss_surface(self.model, [self.batch], [direction], extent=0.1, points=3, progress=False)
        with torch.no_grad():
            alone = torch.stack([self.truth(row) for row in _rows(self.batch)]).mean()
        if _far(torch.tensor(surface.loss[1]), alone, 1e-4) and not self.mixes:
            return f"WRONG: {surface.loss[1]:.6g} at the centre where {float(alone):.6g} is right"
        return "exact" if bool(torch.isfinite(torch.tensor(surface.loss)).all()) else "WRONG: not finite"

    def trace(self) -> str:
        import gdrop_viz as gv

        trace = gv.hessian_trace(self.model, [self.batch], n_probes=2, progress=False)
        return "finite" if abs(trace.total) < float("inf") else f"WRONG: {trace.total}"


def _outcome(part: Callable[[], str]) -> str:
    try:
        return part()
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> str:
    """A refusal of ours, in one line; or an error from deep inside."""
    frames, end = traceback.extract_tb(error.__traceback__), error.__traceback__
    while end is not None and end.tb_next is not None:
        end = end.tb_next
    code = end.tb_frame.f_code.co_code[end.tb_lasti] if end is not None else 0
    raised_here = dis.opname[code] == "RAISE_VARARGS" and "gdrop_viz/" in frames[-1].filename
    text = " ".join(str(error).split())[:200]
    if raised_here and isinstance(error, (ValueError, TypeError, RuntimeError)) and "\n" not in str(error).strip():
        return f"refused: {text}"
    place = next((frame for frame in reversed(frames) if "gdrop_viz/" in frame.filename), frames[-1])
    return f"RAW: {type(error).__name__} in {place.filename.rpartition('gdrop_viz/')[2]}:{place.lineno}: {text}"


def _reads_on(pair: Pair, model: nn.Module) -> bool:
    """Whether the next token is predicted; by a model of text and pictures too, which is given text alone."""
    return pair.task == "causal" or (pair.task == "sequence to sequence" and not model.config.is_encoder_decoder)


def _batches(pair: Pair, model: nn.Module, same_length: bool) -> list[dict[str, Tensor]]:
    pad, task = getattr(model.config, "pad_token_id", 0), "causal" if _reads_on(pair, model) else pair.task
    return list(batches_of(task, pad if isinstance(pad, int) and pad >= 0 else 0, same_length=same_length))


def _rows(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Each row alone, without its padding."""
    rows = []
    for n in range(len(batch["labels"])):
        row = {name: value[n : n + 1] for name, value in batch.items()}
        length = int(row["attention_mask"].sum())
        for name, value in row.items():
            if value.dim() == 2 and value.shape[1] == batch["input_ids"].shape[1]:
                row[name] = value[:, :length]
        if row["labels"].dim() == 2 and row["labels"].shape[1] != length:  # a decoder's
            row["labels"] = row["labels"][:, : int((row["labels"] != -100).sum())]
        rows.append(row)
    return rows


def _take(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def _padded_left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    lengths = batch["attention_mask"].sum(1)
    order = torch.arange(batch["input_ids"].shape[1])
    shifted = (order[None] + lengths[:, None]) % batch["input_ids"].shape[1]
    return {name: value.gather(1, shifted) for name, value in batch.items()}


def _own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    # a copy: some models write into their labels
    return model(**{name: value.clone() for name, value in batch.items()}).loss


class _SeenRates(torch.overrides.TorchFunctionMode):
    """The rates of every dropout in training, read off the calls of torch."""

    _dropouts = (F.dropout, F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d)

    def __init__(self) -> None:
        super().__init__()
        self.rates: set[float] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in self._dropouts:
            p, training = (*args, None, None)[1:3]
            p = kwargs.get("p", 0.5) if p is None else p
            if kwargs.get("training", True) if training is None else training:
                self.rates.add(float(p))
        elif function is F.scaled_dot_product_attention:
            self.rates.add(float(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)))
        return function(*args, **kwargs)


def _rates_used(model: nn.Module, batch: dict[str, Tensor], seed: int) -> set[float]:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _SeenRates() as seen:
        torch.manual_seed(seed)
        _own_loss(model.train(), batch)
    return seen.rates


def _far(a: Tensor, b: Tensor, tolerance: float) -> bool:
    difference = (a.double() - b.double()).abs()
    return not bool((difference <= tolerance * b.double().abs().clamp(min=1e-3)).all())


def _listed(losses: Tensor) -> str:
    return ", ".join(f"{float(loss):.5g}" for loss in losses)
