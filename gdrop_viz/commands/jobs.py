"""Surroundings of a long job: one-line errors, a stop that keeps what is done, workers, a record of the settings."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer

from gdrop_viz.base.files import atomic_path

_STOPPED = 130  # the exit status of a program that was interrupted
_P = ParamSpec("_P")
_R = TypeVar("_R")


def job(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a command print its errors in one line, with exit status 1; GDROP_VIZ_TRACEBACK=1 shows where they arose."""

    @functools.wraps(command)
    def run(*arguments: _P.args, **settings: _P.kwargs) -> _R:
        try:
            return command(*arguments, **settings)
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            if isinstance(error, typer.Exit) or type(error).__module__.startswith("typer"):
                raise
            if os.environ.get("GDROP_VIZ_TRACEBACK"):
                traceback.print_exc()
            typer.secho(f"Error: {error}", fg="red", err=True)
            raise typer.Exit(1) from error

    return run


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C or SIGTERM (Slurm's warning) sets; a second signal interrupts at once.

    Where the work itself heeds Ctrl-C, its result says that it is not whole: then call `end_stopped`.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    kinds = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {kind: signal.signal(kind, on_signal) for kind in kinds}
    try:
        yield stop
    except KeyboardInterrupt:
        end_stopped()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def end_stopped() -> NoReturn:
    """End the command with the status of an interrupted program."""
    typer.echo("Stopped. What is done is kept: the same command goes on from there.")
    raise typer.Exit(_STOPPED)


@contextmanager
def workers(count: int, scheduler: str | None) -> Iterator[Executor | None]:
    """Give the executor that the options ask for: None (this process), a pool of processes, or a Dask cluster's."""
    if scheduler is not None:
        try:
            from distributed import Client
        except ImportError:
            raise RuntimeError("--scheduler needs Dask: pip install distributed") from None
        with Client(scheduler) as client:
            typer.echo(f"Dask cluster at {scheduler}; its dashboard: {client.dashboard_link}")
            yield client.get_executor()
    elif count > 1:
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool
    else:
        yield None


def claim(folder: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Note in `folder` what `command` computes there; raise ValueError if it holds the results of other settings."""
    file = folder / f"{command}.json"
    now = json.loads(json.dumps(settings))
    if file.exists():
        try:
            there = json.loads(file.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete it, or give another --output") from error
        changed = [f"{name}: {there.get(name)!r}, now {now[name]!r}" for name in now if there.get(name) != now[name]]
        if changed:
            raise ValueError(
                f"{folder} holds results with other settings ({'; '.join(changed)}); give another --output"
            )
        return
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps({"command": command, "settings": now}, indent=1), encoding="utf-8")
