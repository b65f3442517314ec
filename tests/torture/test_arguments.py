"""Bad arguments of every public function: refused at once, in one line, with nothing changed."""

from __future__ import annotations

import inspect

import pytest

import gdrop_viz as gv
from tests.torture import arguments

CALLS = {name: list(calls) for name, calls in arguments.table(arguments.world()).items()}
# made by the package, with nothing of the caller's to check
RESULTS = {"Batches", "Fisher", "DropoutSite"}


@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments_are_refused(name):
    for what in CALLS[name]:
        try:
            arguments.trial(name, what)
        except AssertionError as error:
            raise AssertionError(f"{name}, {what}: {error}") from error


def test_the_table_holds_every_public_name():
    public = {name for name in gv.__all__ if callable(getattr(gv, name))}
    drawn = {f"plots.{name}" for name in gv.plots.__all__ if inspect.isfunction(getattr(gv.plots, name))}
    assert public | drawn <= arguments.covered() | RESULTS


def test_it_fails_where_a_check_is_missing(monkeypatch):
    monkeypatch.setattr("gdrop_viz.dropout.schedule.probability", lambda rate, what: rate)
    with pytest.raises(AssertionError, match=r"accepted without a word|raised"):
        arguments.trial("DropoutSchedule", "a rate of 1")
    monkeypatch.setattr("gdrop_viz.plots.dropout.instance", lambda *_: None)
    with pytest.raises(AssertionError, match="raised"):
        arguments.trial("plots.dropout_rates", "text")
