"""Environment of a command's libraries: a writable home folder, and a Matplotlib backend that needs no screen."""

import atexit
import getpass
import os
import shutil
import tempfile
from pathlib import Path

CACHES = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TRITON_CACHE_DIR")


def provide() -> None:
    """Set $HOME and $USER if they are not set; set temporary folders for Matplotlib, W&B and Triton if $HOME is not writable.

    In a container, a user can be a number without a name and a home.

    Figures are written to files, so a notebook's backend (`$MPLBACKEND`), which may be missing here, is not used.
    """
    os.environ["MPLBACKEND"] = "agg"
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user{os.getuid()}"
    home = Path(os.environ.get("HOME") or os.path.expanduser("~"))
    if not home.is_absolute():
        home = Path(tempfile.gettempdir())
    os.environ["HOME"] = str(home)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if _can_be_written(cache) or CACHES[0] in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="snnconv-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = folder
    for name in CACHES:
        os.environ.setdefault(name, os.path.join(folder, name.lower()))


def _can_be_written(folder: Path) -> bool:
    """Whether `folder`, or its nearest existing parent, is writable."""
    present = next(path for path in (folder, *folder.parents) if path.exists())
    return present.is_dir() and os.access(present, os.W_OK | os.X_OK) and not str(present).startswith("/proc")
