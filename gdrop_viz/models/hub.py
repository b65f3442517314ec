"""Hugging Face hub: models and data sets, quietly, and one line with the remedy where they do not come."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datasets import DatasetDict

FILE_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
_DATASET_LOGGERS = ("datasets", "huggingface_hub")


def looks_like_path(name: str) -> bool:
    """Return whether `name` can only mean a place on this machine: it exists, or is written as a path or a file.

    >>> looks_like_path("./mine"), looks_like_path("reviews.csv"), looks_like_path("google-t5/t5-base")
    (True, True, False)
    """
    path = Path(name).expanduser()
    return (
        name.startswith((".", "~", "/", os.sep))
        or "\\" in name
        or path.is_absolute()
        or name.count("/") > 1
        or path.suffix.lower() in FILE_FORMATS
        or path.exists()
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the log lines, warnings and weight-loading bars of transformers; download bars stay.

    What a reader must know is said by this package in its own words, so the general remarks of the libraries only
    bury it. All settings are restored.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    bar, no_downloads = is_progress_bar_enabled(), are_progress_bars_disabled()
    disable_progress_bar()  # of the hub's downloads too
    if not no_downloads:
        enable_progress_bars()
    try:
        with _quiet("transformers", "huggingface_hub"):
            yield
    finally:
        if bar:
            enable_progress_bar()
            if no_downloads:
                disable_progress_bars()


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silence the log lines, warnings and bars ("Generating train split") of datasets; all settings are restored."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with _quiet(*_DATASET_LOGGERS):
            yield
    finally:
        if not off:
            enable_progress_bars()


@contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """Silence the log lines of libraries for a while; their levels are restored."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    with quiet_loggers(*names), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def explained_failures(kind: str, name: str, *, revision: str | None = None, instead: str = "") -> Iterator[None]:
    """Turn the failures of loading the hub's `kind` ("model", "data set") `name` into one line with the remedy.

    `instead` ends the line: what to use where nothing can be downloaded. The original exception is the cause.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise _explanation(error, kind, name, revision, instead) from error
    except Exception as error:
        library = type(error).__module__.split(".")[0]
        if library.startswith(("httpx", "httpcore", "huggingface_hub", "datasets", "safetensors")) or (
            # safetensors' module is builtins in some releases; a pickle that holds more than weights is not opened
            type(error).__name__ in ("SafetensorError", "UnpicklingError")
        ):
            raise _explanation(error, kind, name, revision, instead) from error
        raise


def hub_has(
    name: str, *, filename: str, revision: str | None = None, repo_type: Literal["model", "dataset"] = "model"
) -> bool:
    """Ask the hub once whether a repository has `filename`, if it is not in the cache; raises if that cannot be known.

    The client itself retries for half a minute where there is no network, too long for a mistyped name. A repository
    that has other files in the cache is taken for one that has it, where the hub does not answer.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    if isinstance(try_to_load_from_cache(name, filename, revision=revision, repo_type=repo_type), str):
        return True
    try:
        get_hf_file_metadata(hf_hub_url(name, filename, revision=revision, repo_type=repo_type), timeout=10)
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except errors.EntryNotFoundError:
        return False
    except (errors.HfHubHTTPError, errors.FileMetadataError):
        pass  # a hiccup of the server: the real request retries
    except Exception as error:
        folder = repo_folder_name(repo_id=name, repo_type=repo_type)
        if not (_is_unreachable([error]) and (Path(constants.HF_HUB_CACHE) / folder).exists()):
            raise
    return True


def only_cached(name: str, *, filename: str, revision: str | None = None) -> bool:
    """Return whether the cache has `filename` of a model and the hub does not answer.

    Then the copy is to be taken at once: the client would try each of the model's files for half a minute.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(name, filename, revision=revision), str):
        return False
    try:
        get_hf_file_metadata(hf_hub_url(name, filename, revision=revision), timeout=10)
    except (errors.HfHubHTTPError, errors.FileMetadataError):
        return False  # it answers: what it says is for the real request
    except Exception as error:
        if not _is_unreachable([error]):
            raise
        return True
    return False


def _is_unreachable(chain: Iterable[BaseException]) -> bool:
    from huggingface_hub import errors

    kinds = ("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "ReadError", "RemoteProtocolError")
    return any(
        isinstance(link, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)) or type(link).__name__ in kinds
        for link in chain
    )


def _explanation(error: BaseException, kind: str, name: str, revision: str | None, instead: str) -> Exception:
    from huggingface_hub import errors

    chain = list(_causes(error))
    names = {type(link).__name__ for link in chain}
    all_text = " ".join(map(str, chain))
    text = " ".join(str(error).split())

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    def line(what: str) -> str:
        return f"{what}; {instead}" if instead else what

    if "trust_remote_code" in all_text:
        what = "needs code of its own: read it on its page, then pass trust_remote_code=True"
        return ValueError(f"the {kind} {name!r} {what}")
    if caused_by(errors.GatedRepoError) or "is a gated" in all_text:
        what = f"the {kind} {name!r} is gated: ask for access on its hub page, then log in with `hf auth login`"
        return RuntimeError(line(what))
    if caused_by(errors.RevisionNotFoundError):
        return ValueError(f"the {kind} {name!r} has no revision {revision!r}; take a branch, tag or commit of it")
    if _is_unreachable(chain):
        offline = caused_by(errors.OfflineModeIsEnabled)
        why = (
            "offline mode is on: unset HF_HUB_OFFLINE" if offline else "the hub could not be reached: check the network"
        )
        return RuntimeError(line(f"the {kind} {name!r} is not in the local cache and {why}"))
    if caused_by(errors.RepositoryNotFoundError, errors.HFValidationError) or "DatasetNotFoundError" in names:
        what = f"no {kind} {name!r} was found, neither bundled, nor as a local path, nor on the hub"
        return FileNotFoundError(line(f"{what} (a private one needs `hf auth login`)"))
    if "SafetensorError" in names or "consistency check" in all_text.lower():
        return RuntimeError(f"a file of the {kind} {name!r} is cut off or damaged ({text[:160]}): download it again")
    kept = ValueError if isinstance(error, ValueError) else RuntimeError
    return kept(line(f"the {kind} {name!r} could not be loaded: {text[:400]}"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def hub_dataset(name: str, *, config: str | None = None, revision: str | None = None, instead: str = "") -> DatasetDict:
    """Return all splits of the data set `name` from the hub; its download bars stay."""
    from datasets import load_dataset

    with explained_failures("data set", name, revision=revision, instead=instead), _quiet(*_DATASET_LOGGERS):
        hub_has(name, filename="README.md", revision=revision, repo_type="dataset")
        return load_dataset(name, config, revision=revision)
