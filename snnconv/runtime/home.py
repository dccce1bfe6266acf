"""The environment that libraries of a command find: a home folder that can be written, and a Matplotlib that needs no screen."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

CACHES = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TRITON_CACHE_DIR")


def provide() -> None:
    """Set $HOME where it is unset, and give matplotlib, W&B and Triton a temporary folder where it cannot be written.

    Figures go to files: a backend that a notebook asks for (`$MPLBACKEND`) need not exist here.
    """
    os.environ["MPLBACKEND"] = "agg"
    home = Path(os.environ.setdefault("HOME", os.path.expanduser("~")))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if _can_be_written(cache) or CACHES[0] in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="snnconv-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = folder
    for name in CACHES:
        os.environ.setdefault(name, os.path.join(folder, name.lower()))


def _can_be_written(folder: Path) -> bool:
    """Whether `folder`, or the nearest parent that exists and would hold it, can be written."""
    present = next(path for path in (folder, *folder.parents) if path.exists())
    return present.is_dir() and os.access(present, os.W_OK | os.X_OK) and not str(present).startswith("/proc")
