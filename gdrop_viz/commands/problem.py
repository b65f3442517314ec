"""`problem`: versions, device and settings for the report of a problem, and nothing private.

No path, user or host name, no environment variable's value that is not on the list below, no data and no model.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "torch transformers datasets accelerate safetensors tokenizers numpy scipy pandas scikit-learn h5py matplotlib "
    "seaborn ipywidgets anywidget jupyterlab voila filelock peft"
).split()
# settings that change what this package does; their values are numbers and switches
_VARIABLES = (
    "OMP_NUM_THREADS MKL_NUM_THREADS CUDA_VISIBLE_DEVICES TOKENIZERS_PARALLELISM HF_HUB_OFFLINE PYTHONHASHSEED "
    "PYTORCH_ENABLE_MPS_FALLBACK CUBLAS_WORKSPACE_CONFIG"
).split()
_SWITCH = re.compile(r"[-0-9.,:]{0,12}|true|false|on|off|yes|no|random", re.IGNORECASE)


def problem() -> None:
    """Print versions, device and settings for a report of a problem; nothing private is in it."""
    print(problem_report())


def problem_report() -> str:
    """Return versions, device and settings as plain text, to be pasted into a report.

    >>> lines = problem_report().splitlines()
    >>> lines[0].startswith("gdrop_viz"), any(line.startswith("torch") for line in lines)
    (True, True)
    """
    import torch

    from gdrop_viz import __version__
    from gdrop_viz.models.bundled import bundled_models, bundled_tasks

    lines = [
        f"gdrop_viz {__version__}",
        f"Python {platform.python_version()} ({platform.python_implementation()}), {platform.system()} "
        f"{platform.release()}, {platform.machine()}, {os.cpu_count()} cores",
        *(f"{name} {_version(name)}" for name in _PACKAGES),
        f"device: {_device()}",
        f"torch: {torch.get_num_threads()} threads, default dtype {torch.get_default_dtype()}, "
        f"deterministic algorithms {torch.are_deterministic_algorithms_enabled()}",
        f"notebook: {_notebook()}",
        f"bundled: models {_listed(bundled_models)}; tasks {_listed(bundled_tasks)}",
    ]
    lines += [f"{name}={_plain(os.environ[name])}" for name in _VARIABLES if name in os.environ]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"CUDA {torch.version.cuda}: {', '.join(names)}"
    return "MPS" if torch.backends.mps.is_available() else "CPU only"


def _notebook() -> str:
    shell = sys.modules.get("IPython")
    active = shell.get_ipython() if shell is not None else None
    return "none" if active is None else type(active).__name__


def _listed(names: Callable[[], list[str]]) -> str:
    try:
        return ", ".join(names()) or "none"
    except FileNotFoundError:
        return "missing"


def _plain(value: str) -> str:
    """The value of a switch, or numbers; any other word may be somebody's own and stays private."""
    return value if _SWITCH.fullmatch(value) else "(set)"
