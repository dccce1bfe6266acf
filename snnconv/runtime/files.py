"""Files that are either the old or the new one, never half of it."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(temporary)` fill a file beside `path`, flush it to disk, then move it into place in one step.

    A crash, a kill or a full disk leaves the old file (or none); OSError then names the path.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            error.errno, f"{path}: could not be written ({error.strerror or error}); what was there is unchanged"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`."""

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    replace(path, write)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON; ValueError if a number is not finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError that names the file if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, no valid JSON ({error})") from error


def json_line(value: Any) -> str:
    """`value` as one line of JSON; ValueError if a number is not finite."""
    return json.dumps(value, allow_nan=False) + "\n"


def append_line(path: Path, value: Any) -> None:
    """Add `value` as one JSON line, with a single write."""
    with path.open("ab") as stream:
        stream.write(json_line(value).encode())


def read_lines(path: Path) -> list[Any]:
    """The complete JSON lines of a file (a last line that a kill cut short is left out); none if there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
