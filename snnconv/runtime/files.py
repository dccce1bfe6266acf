"""Atomic writing of files: after an interruption a file has either its old or its new content."""

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
    """Context that adds `path` to the message of an OSError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path}: could not be written ({reason}); the old content is unchanged") from error


def replace(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file next to `path`, flush it to disk, then rename it in one step.

    After a crash, a kill or a full disk the old file (or none) is left; the OSError names the path.  A temporary file left by a
    kill (`.<name>.part`) is removed by the next write.
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
def held(path: Path, strict: bool = False) -> Iterator[int | None]:
    """Lock a folder or file against other processes that lock it; BlockingIOError if another process holds the lock.

    The lock ends with the context, or with the last process that inherited the handle, which is the context's value.
    If the file system has no locks (Windows, some clusters), `strict` raises an OSError; otherwise nothing is locked.
    """
    if fcntl is None:
        if strict:
            raise OSError(f"{path}: this system has no file locks")
        yield None
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks only what can be written
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{path}: another process is using this folder; wait until it ends") from error
        except OSError as error:  # as on some clusters
            if strict:
                raise OSError(f"{path}: this file system has no locks ({error.strerror})") from error
        yield handle
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` by `text`."""
    replace(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace the content of `path` by `value` as indented JSON; ValueError if a number is not finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError that names the file if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{path}: damaged, not valid JSON ({error})") from error


def json_line(value: Any) -> str:
    """`value` as one line of JSON; ValueError if a number is not finite."""
    return json.dumps(value, allow_nan=False) + "\n"


def append_line(path: Path, value: Any) -> None:
    """Append `value` as one JSON line with a single write: the whole line, or nothing and an OSError that names the path."""
    line = json_line(value).encode()
    with _writing(path), path.open("ab", buffering=0) as stream:
        written = stream.write(line)
        if written < len(line):
            stream.truncate(stream.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_lines(path: Path) -> list[Any]:
    """The complete JSON lines of a file, without an incomplete last line of a killed process; none if there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
