"""The command line of this process, and commands in messages that the user can paste."""

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_started: list[str] = []  # the words before the overrides: ["snnconv", "train"]
_arguments: list[str] = []


def started_as(words: Sequence[str], arguments: Sequence[str]) -> None:
    """Record the command line: `words` start the program, `arguments` follow."""
    _started[:], _arguments[:] = words, arguments


def command() -> str:
    """The command line of this process, quoted for a shell."""
    return line([*_started, *_arguments] if _started else ["python", *sys.argv])


def command_for(name: str, *overrides: str) -> str:
    """A command line for the command `name`, started in the same way as this process, quoted for a shell."""
    return line([*_words(name), *overrides])


def example(name: str, text: str) -> str:
    """A command line for a message; `text` is not quoted, because it contains a placeholder (run=runs/…)."""
    return f"{line(_words(name))} {text}"


def _words(name: str) -> list[str]:
    *before, last = _started or ["snnconv", ""]
    if not last.endswith(".py"):
        return [*before, name]
    script = Path(last)
    root = script.parent if script.name == "train.py" else script.parent.parent
    return [*before, str(root / "train.py" if name == "train" else root / "scripts" / f"{name}.py")]


def line(words: Iterable[str]) -> str:
    """A command line, quoted for a shell.  All commands in messages are built here."""
    return " ".join(map(word, words))


def word(text: str) -> str:
    """`text` as one word of a command line."""
    quoted_once = shlex.quote(text)
    return quoted_once if quoted_once == text or "'" not in text or set(text) & set('"$`\\!') else f'"{text}"'


def pasted(key: str, value: str | Sequence[str]) -> str:
    """`key=value` as one word of a command line, for any text or list of texts."""
    return word(override(key, value))


def override(key: str, value: str | Sequence[str]) -> str:
    """`key=value` in Hydra's grammar, for any text or list of texts, without the quotes of a shell (`pasted`)."""
    return f"{key}={quoted(value)}" if isinstance(value, str) else f"{key}=[{','.join(map(quoted, value))}]"


def quoted(text: str) -> str:
    """`text` as a value in Hydra's grammar: quoted unless it can only be read as a path or a name."""
    if re.fullmatch(r"(?=.*[A-Za-z_/])[A-Za-z0-9_./@+-]+", text) and not re.fullmatch(
        r"(?i)null|true|false|[+-]?(nan|inf|[\d_.]+(e[+-]?[\d_]+)?)", text
    ):
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    literal = re.sub(r"(\\*)('|$)", lambda part: 2 * part[1] + ("\\'" if part[2] else ""), literal)
    return f"'{literal}'"
