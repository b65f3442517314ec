"""Progress bars."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress_bar(*, total: int | None, description: str, unit: str, show: bool = True, initial: int = 0) -> Any:
    """Return a `tqdm.auto` bar (terminal or notebook) with rate and remaining time; silent if `show` is False.

    The bar appears only after half a second, so that short work leaves nothing in a saved notebook.
    """
    return tqdm(total=total, desc=description, unit=unit, disable=not show, initial=initial, delay=0.5, leave=False)
