"""Claim of a folder by the one panel that works in it, so that a reloaded page finds the run it has lost."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BEAT = 0.5  # seconds between two looks
_STALE = 10.0  # a claim that was not renewed for so long is that of a kernel that is gone
_FILE, _REQUEST = ".running.json", ".stop-request"


class Claim:
    """The right of one panel to work in `folder`, written there for the panels of other kernels and pages.

    While a run holds it, a file is renewed twice a second; whoever finds it fresh can ask that run to stop.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._id = folder, uuid.uuid4().hex

    def other(self) -> str | None:
        """When another panel's run that is still at work here began, such as "13:05"; None without one."""
        file = self._folder / _FILE
        with suppress(OSError, ValueError):
            held = json.loads(file.read_text(encoding="utf-8"))
            if held["id"] != self._id and time.time() - file.stat().st_mtime < _STALE:
                return str(held["since"])
        return None

    @contextmanager
    def held(self, stop: threading.Event) -> Iterator[None]:
        """Hold the claim for the length of a run; `stop` is set as soon as another panel asks for it."""
        file, request, over = self._folder / _FILE, self._folder / _REQUEST, threading.Event()
        text = json.dumps({"id": self._id, "process": os.getpid(), "since": time.strftime("%H:%M")})

        def renew() -> None:
            while not over.wait(_BEAT):
                with suppress(OSError):  # a folder that is full or gone does not end the run
                    file.write_text(text, encoding="utf-8")
                    if request.exists() and request.read_text(encoding="utf-8") != self._id:
                        stop.set()

        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            request.unlink(missing_ok=True)
            file.write_text(text, encoding="utf-8")
        watcher = threading.Thread(target=renew, name="gdrop_viz claim", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            with suppress(OSError):
                request.unlink(missing_ok=True)
                file.unlink(missing_ok=True)

    def take_over(self, stop: threading.Event, *, seconds: float = 600.0) -> bool:
        """Ask the other run to stop and wait for its end; returns whether the folder is free."""
        with suppress(OSError):
            (self._folder / _REQUEST).write_text(self._id, encoding="utf-8")
        end = time.monotonic() + seconds
        while self.other() is not None and time.monotonic() < end and not stop.is_set():
            time.sleep(_BEAT / 5)
        return self.other() is None
