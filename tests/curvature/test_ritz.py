"""Does an unfinished search for eigenvalues lose nothing when it is interrupted while it condenses what it knows?"""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

from gdrop_viz.curvature import hessian_spectrum
from gdrop_viz.curvature.ritz import Ritz

SYMMETRIC = np.random.default_rng(0).standard_normal((40, 40))
SYMMETRIC = SYMMETRIC + SYMMETRIC.T


def filled(pairs: int, k: int = 2) -> Ritz:
    """The first vectors of the basis with their products."""
    ritz = Ritz(k, "LA")
    for vector in np.eye(40)[:pairs]:
        ritz.add(vector, SYMMETRIC @ vector)
    return ritz


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_exception_while_condensing_keeps_every_pair(monkeypatch, error):
    """Memory runs out there, or somebody presses Ctrl-C a second time: what was known before is still known."""
    ritz, real = filled(10), Ritz._best  # the eleventh of k = 2 condenses
    before = ritz.pairs()

    def fails(self, k):
        real(self, k)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Ritz, "_best", fails)
        with pytest.raises(error):
            ritz.add(np.eye(40)[10], SYMMETRIC[10])
    assert len(ritz) == 10
    for one, other in zip(ritz.pairs(), before, strict=True):
        assert (one == other).all()
    ritz.add(np.eye(40)[10], SYMMETRIC[10])  # and it goes on
    assert len(ritz) == 2 + 2 + 1


def test_ctrl_c_while_condensing_is_heeded_after_it(tiny_bert, tiny_batches, monkeypatch):
    real, condensed = Ritz._best, []

    def pressed(self, k):
        if len(self) == 9 and not condensed:
            condensed.append(len(self))
            signal.raise_signal(signal.SIGINT)
        return real(self, k)

    class After:
        """Stops before the eleventh product, as Ctrl-C in the course of the tenth does."""

        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 10

    settings = dict(k=1, basis=30, progress=False)
    expected = hessian_spectrum(tiny_bert, tiny_batches, stop=After(), **settings)
    monkeypatch.setattr(Ritz, "_best", pressed)
    found = hessian_spectrum(tiny_bert, tiny_batches, stop=threading.Event(), **settings)
    assert condensed == [9]
    assert found.n_products == expected.n_products == 10
    assert (found.eigenvalues == expected.eigenvalues).all()
    assert not found.converged.any()
