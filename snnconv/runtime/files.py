"""Files that are either the old or the new one, never half of it."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Makes an OSError of the block name `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path}: could not be written ({reason}); what was there is unchanged") from error


def replace(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then move it into place in one step.

    A crash, a kill or a full disk leaves the old file (or none); OSError then names the path.  What a kill leaves beside it
    (`.<name>.part`) the next write removes.
    """
    temporary = path.with_name(f".{path.name}.part")
    with _writing(path):
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for it out of `folder`, until this one ends, however; OSError if another one is in.

    Where there are no such locks (Windows, file systems of some clusters), nothing is watched.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"{folder}: another process is working in this folder; wait for its end") from error
        except OSError:  # a file system without locks, as on some clusters: nobody watches
            pass
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`."""
    replace(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON; ValueError if a number is not finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError that names the file if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{path}: damaged, no valid JSON ({error})") from error


def json_line(value: Any) -> str:
    """`value` as one line of JSON; ValueError if a number is not finite."""
    return json.dumps(value, allow_nan=False) + "\n"


def append_line(path: Path, value: Any) -> None:
    """Add `value` as one JSON line, with a single write: the whole line or, with an OSError that names the path, none of it."""
    line = json_line(value).encode()
    with _writing(path), path.open("ab", buffering=0) as stream:
        written = stream.write(line)
        if written < len(line):
            stream.truncate(stream.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_lines(path: Path) -> list[Any]:
    """The complete JSON lines of a file (a last line that a kill cut short is left out); none if there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
