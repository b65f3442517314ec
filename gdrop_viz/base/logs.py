"""The log: what the package says it does, under the logger "gdrop_viz" and its children."""

from __future__ import annotations

import logging

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def show_log(level: int = logging.INFO) -> logging.Handler:
    """Print this package's log to the standard error stream from `level` on; what `--verbose` of the commands does.

    Called again it only changes the level. Returns the handler, for `logging.getLogger("gdrop_viz").removeHandler`.

    >>> handler = show_log(logging.DEBUG)
    >>> show_log() is handler, logging.getLogger("gdrop_viz").level == logging.INFO
    (True, True)
    >>> logging.getLogger("gdrop_viz").removeHandler(handler)
    """
    logger = logging.getLogger("gdrop_viz")
    handler = next((one for one in logger.handlers if one.get_name() == __name__), None)
    if handler is None:
        handler = logging.StreamHandler()
        handler.set_name(__name__)
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    logger.setLevel(level)
    return handler
