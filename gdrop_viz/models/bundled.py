"""Bundled models, corpus, tasks and findings: where they lie and what they are called."""

from __future__ import annotations

from pathlib import Path


def data_folder() -> Path:
    """Return the folder with the bundled `models/`, `corpus/`, `tasks/` and `findings/`.

    In an installed wheel it lies inside the package, in a clone of the repository beside it.

    Raises
    ------
    FileNotFoundError
        If neither is there (a package installed without its data).

    >>> data_folder().name
    'data'
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the bundled data should lie in {package / 'data'} or {package.parent / 'data'}, but neither exists; "
        "reinstall gdrop_viz or work from a full clone of its repository"
    )


def bundled_models() -> list[str]:
    """Return the names that `load_pretrained` finds without any network, sorted.

    >>> all(isinstance(name, str) for name in bundled_models())
    True
    """
    return sorted(path.parent.name for path in data_folder().glob("models/*/config.json"))


def bundled_tasks() -> list[str]:
    """Return the names that `load_task` finds without any network, sorted.

    >>> all(isinstance(name, str) for name in bundled_tasks())
    True
    """
    return sorted(path.stem for path in data_folder().glob("tasks/*.csv"))


def bundled_findings() -> list[str]:
    """Return the names of the fine-tuning comparisons that come with the package, such as "bert-mini-sentiment".

    `Comparison.load(data_folder() / "findings" / f"{name}.json")` reads one; `notebooks/findings.py` makes them.

    >>> all(isinstance(name, str) for name in bundled_findings())
    True
    """
    return sorted(path.stem for path in data_folder().glob("findings/*.json"))
