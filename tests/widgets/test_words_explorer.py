"""Does the WordsExplorer compute on a copy, answer the slider at once, and show what the calls of its code give?"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import gdrop_viz as gv
from gdrop_viz.widgets.words_explorer_state import WordsExplorerState

SENTENCE = "she was very _ to see her sister again ."


@pytest.fixture(scope="module")
def lm():
    return gv.load_pretrained("bert-mini")


@pytest.fixture(scope="module")
def fisher(lm):
    batches = gv.pretraining_batches(lm, n_sequences=16, batch_size=8, max_length=32, progress=False)
    return gv.fisher_information(lm.model, batches, progress=False)


@pytest.fixture(scope="module")
def computed(lm, fisher):
    state = WordsExplorerState(SENTENCE, n_distances=3, by="tensor", k=0.3)
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    seen = []
    state.compute(
        lm,
        fisher,
        on_point=lambda label, path: seen.append(
            all(tensor.equal(before[name]) for name, tensor in lm.model.state_dict().items())
        ),
    )
    assert seen == [True] * 6  # the caller's weights never move
    return state


@pytest.mark.parametrize("kind", ["top", "bottom", "random"])
@pytest.mark.parametrize("by", ["element", "tensor", "layer", "component"])
def test_both_sides_move_by_the_same_distance(lm, fisher, kind, by):
    state = WordsExplorerState(SENTENCE, left="top", right=kind, by=by, k=0.5)
    directions = list(state.directions(lm, fisher).values())
    assert [direction.norm for direction in directions] == pytest.approx([directions[0].norm] * len(directions))
    moved = gv.top_k(fisher, 0.5, by=by)
    weights = lm.model.state_dict()
    norm = math.sqrt(sum(float(weights[name][moved.mask(name)].double().square().sum()) for name in moved.names))
    assert directions[0].norm == pytest.approx(norm, rel=1e-4)  # a distance of 1 is the norm of what moves


def test_words_and_loss_are_those_of_the_moved_weights(lm, fisher, computed):
    """Brute force: move a copy by hand, mask each token of the sentence in turn."""
    from copy import deepcopy

    label = computed.panels[0]
    path, direction = computed.paths[label], computed.directions(lm, fisher)[label]
    assert path.sentence == "she was very glad to see her sister again ."
    assert path.guessing == math.log(lm.model.config.vocab_size)
    ids = lm.tokenizer(path.sentence, return_tensors="pt")["input_ids"]
    for k, distance in enumerate((0.0, 0.5, 1.0)):
        moved = deepcopy(lm.model).eval()
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                if name in direction.vectors:
                    parameter += distance * direction.vectors[name]
            losses = []
            for at in range(1, ids.shape[1] - 1):
                masked = ids.clone()
                masked[0, at] = lm.tokenizer.mask_token_id
                losses.append(-moved(input_ids=masked).logits[0, at].log_softmax(-1)[ids[0, at]].item())
        np.testing.assert_allclose(path.losses[k], np.mean(losses), rtol=1e-4)
        expected = gv.completions(replace(lm, model=moved), SENTENCE.replace("_", "{}"))
        assert path.completions[k]["completion"].tolist() == expected["completion"].tolist()
        np.testing.assert_allclose(path.completions[k]["probability"], expected["probability"], rtol=1e-4)


def test_the_code_computes_the_same(lm, fisher, computed):
    names = {"lm": lm, "fisher": fisher}
    exec(computed.as_code(), names)
    assert list(names["paths"]) == list(computed.panels)
    for label, path in names["paths"].items():
        np.testing.assert_array_equal(path.losses, computed.paths[label].losses)


def test_the_pictures_follow_the_distance_on_one_scale(computed):
    for at in range(3):
        computed.at = at
        left, right = computed.words()
        assert left.x.bounds == right.x.bounds
        table = computed.paths[computed.panels[0]].completions[at]
        assert list(left.series[0].x) == table["probability"].tolist()
        assert [name for _, name in left.y.ticks] == table["completion"].tolist()
        assert f"At distance {at / 2:.3g} the model writes {table['completion'][0]}" in left.summary
        curve = computed.curve()
        dots = [series for series in curve.series if not series.line]
        assert [dot.y[0] for dot in dots] == [computed.paths[label].losses[at] for label in computed.panels]
        assert [line.label[:14] for line in curve.references] == ["guessing: ln V"]
    computed.at = 0


@pytest.mark.parametrize(
    ("name", "sentence"), [("gpt2-mini", "She was very _"), ("t5-mini", "she was very _ to see .")]
)
def test_causal_models_and_spans_too(name, sentence):
    lm = gv.load_pretrained(name)
    fisher = gv.Fisher.from_means({name: float(p.detach().abs().mean()) for name, p in lm.model.named_parameters()})
    state = WordsExplorerState(sentence, by="tensor", k=0.5, n_distances=2)
    state.compute(lm, fisher)
    assert state.missing() == []
    for path in state.paths.values():
        assert np.isfinite(path.losses).all()
        assert all(len(table) == 5 for table in path.completions)


@pytest.mark.parametrize("sentence", ["no blank", "two _ blanks _", "braces {} and _"])
def test_a_sentence_needs_one_blank(lm, fisher, sentence):
    with pytest.raises(ValueError, match="expected a sentence with one blank, written _"):
        gv.WordsExplorer(lm, fisher, sentence)


def test_a_run_fills_the_panel_and_the_slider_answers_within_50_ms(lm, fisher):
    explorer = gv.WordsExplorer(lm, fisher, SENTENCE)
    explorer.state.n_distances = 5
    explorer.run_button.click()
    assert explorer.runner.wait(120)
    assert explorer.last_error is None
    assert "Both sides are known" in explorer.progress.value
    left = explorer.word_charts[0].picture
    times = []
    for value in (0.25, 0.5, 0.75, 1.0):
        began = time.perf_counter()
        explorer.distance.value = value
        times.append(time.perf_counter() - began)
    assert sorted(times)[1] < 0.05
    assert explorer.state.at == 4
    assert explorer.word_charts[0].picture is not left
    explorer.sentence.value = "no blank"
    assert "ValueError: expected a sentence with one blank" in explorer.message.value
    explorer.sentence.value = SENTENCE
    assert explorer.state.missing() == []  # known again, without a run
    explorer.close()


def test_stop_keeps_the_distances_so_far(lm, fisher):
    explorer = gv.WordsExplorer(lm, fisher)
    explorer.word_charts[0].observe(lambda change: explorer.stop_button.click(), "content")
    explorer.run()
    assert explorer.runner.wait(60)
    assert explorer.last_error is None
    (path,) = explorer.state.paths.values()
    known = [table is not None for table in path.completions]
    assert 1 <= sum(known) < 21
    assert known == sorted(known, reverse=True)
    np.testing.assert_array_equal(np.isfinite(path.losses), known)
    assert "2 of 2 sides to compute" in explorer.progress.value
    explorer.close()
