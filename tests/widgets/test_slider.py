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
