"""Damaged run folders: flipped bytes, truncated files, swapped keys, other types.  Reading them must fail with a message,
and must not start a process."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from snnconv.runtime import stored_config, weight_files
from snnconv.runtime.checkpoint import load_ann, load_state

FILES = ("ann.json", "ann.safetensors", "last.ckpt", "metrics.jsonl", ".hydra/config.yaml", ".hydra/hydra.yaml")
MENDABLE = (ValueError, OSError, InstantiationException)  # every command prints these as one line
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e400,
    "",
    "a.b",
    [],
    [1],
    {},
    {"_target_": "os.system"},
    "${oc.env:HOME}",
    "../../x",
)
started: list[str] = []


def _audit(event: str, arguments: Any, starts: Any = STARTS) -> None:
    if event in starts:  # an argument, because hooks still run when the names of this module no longer exist
        started.append(event)


def _flipped(content: bytes, source: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(source.randint(1, 8)):
        flipped[source.randrange(len(flipped))] = source.randrange(256)
    return bytes(flipped)


def _cut(content: bytes, source: random.Random) -> bytes:
    return content[: source.randrange(len(content))]


def _doubled(content: bytes, source: random.Random) -> bytes:
    return content + content[source.randrange(len(content)) :]


def _edited(content: bytes, source: random.Random) -> bytes:
    """A JSON or YAML file with a value of another type, a missing key, or two swapped keys; other files with flipped bytes."""
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.create(content.decode()))
    except Exception:  # neither JSON nor YAML
        return _flipped(content, source)
    holder = plain
    while isinstance(holder, dict) and holder and source.random() < 0.7:
        inner = [value for value in holder.values() if isinstance(value, dict) and value]
        if not inner:
            break
        holder = source.choice(inner)
    key, other = source.choice([*holder]), source.choice([*holder])
    change = source.randrange(3)
    if change == 0:
        holder[key] = source.choice(VALUES)
    elif change == 1:
        del holder[key]
    else:
        holder[key], holder[other] = holder[other], holder[key]
    return json.dumps(plain, default=str).encode()


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flipped, _cut, _doubled, _edited, _edited)


def finding(seed: int, run: Path, scratch: Path) -> str | None:
    """The fault in reading a copy of `run` with the damage number `seed`, or None."""
    source = random.Random(seed)
    folder = scratch / f"damaged{seed}"
    shutil.copytree(run, folder)
    path = folder / source.choice([name for name in FILES if (folder / name).is_file()])
    damage = source.choice(DAMAGES)
    path.write_bytes(damage(path.read_bytes(), source))
    try:
        return next((text for read in READERS if (text := _failure(read, folder))), None)
    finally:
        shutil.rmtree(folder)


def _failure(read: Callable[[Path], Any], folder: Path) -> str | None:
    started.clear()
    try:
        read(folder)
    except MENDABLE as error:
        return None if str(error).strip() else f"{read.__name__}: an error without message"
    except Exception as error:  # any other error is a traceback for the user
        return f"{read.__name__}: {type(error).__name__}: {error}"
    return f"{read.__name__}: started {started}" if started else None


def network(folder: Path) -> None:
    """Read the network as `snnconv evaluate` does."""
    load_ann(folder)


def weights(folder: Path) -> None:
    """Read the weights as model.weights=… does."""
    weight_files.read_weights(folder)


def state(folder: Path) -> None:
    """Read the training state as resume=… does."""
    if (folder / "last.ckpt").is_file():
        load_state(folder / "last.ckpt")


def configuration(folder: Path) -> None:
    """Read the configuration as resume=… and `snnconv evaluate` do."""
    config = stored_config.read_stored(folder / ".hydra" / "config.yaml", ["model", "data", "fit"])
    config.run, config.resume, config.trust = str(folder), None, []
    stored_config.resolve(config)


READERS = (network, weights, state, configuration)
sys.addaudithook(_audit)
