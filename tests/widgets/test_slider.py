"""Does the slider keep its value within its bounds?"""

from __future__ import annotations

import math

import pytest
import traitlets

from gdrop_viz.widgets.slider import NumberSlider


@pytest.mark.parametrize(("given", "kept"), [(0.2, 0.2), (-1, 0.0), (7, 0.5)])
def test_a_value_outside_moves_to_the_bound(given, kept):
    slider = NumberSlider("lower", value=0.1, min=0.0, max=0.5, step=0.01)
    slider.value = given
    assert slider.value == kept


def test_whole_numbers_stay_whole():
    slider = NumberSlider("epochs", value=3, min=1, max=20, step=1, integer=True)
    slider.value = 4.4
    assert slider.value == 4.0


def test_what_is_no_number_is_refused():
    slider = NumberSlider("lower", value=0.1, min=0.0, max=0.5, step=0.01)
    with pytest.raises(traitlets.TraitError, match="finite"):
        slider.value = math.nan
    with pytest.raises(ValueError, match="min < max"):
        NumberSlider("lower", value=0.1, min=0.5, max=0.5, step=0.01)


def test_what_is_typed_beyond_the_slider_widens_it_up_to_its_limit():
    upper = NumberSlider("upper", value=0.1, min=0.0, max=0.3, limit=0.99, step=0.01)
    upper.value = 0.5
    assert (upper.value, upper.max) == (0.5, 0.5)
    upper.value = 2.0
    assert (upper.value, upper.max) == (0.99, 0.99)
    assert NumberSlider("radius", value=40.0, min=0.05, max=3.0, limit=1000.0, step=0.05).value == 40.0


@pytest.mark.parametrize(("given", "kept"), [(7, 7.0), (8, 9.0), (8.9, 9.0), (51, 51.0)])
def test_odd_numbers_stay_and_others_become_the_next(given, kept):
    points = NumberSlider("points", value=3, min=3, max=51, step=2, odd=True)
    points.value = given
    assert points.value == kept
