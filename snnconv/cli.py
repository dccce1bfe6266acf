"""The program `snnconv` and its commands.  Slow packages are imported only after the command is known.

snnconv train model=vgg16 levels=8      the same as `python -m snnconv train …` and, in a checkout, `python train.py …`
"""

import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnconv.commands import COMMANDS
from snnconv.runtime import allocator, home, program, threads

if TYPE_CHECKING:
    from omegaconf import DictConfig

IN_TURN = ("evaluate", "baseline")  # commands that accept several values (method=srp,cos) without --multirun
MAPPINGS = ("arguments", "ratios", "ranks")  # settings that are empty mappings by default
DEMO = "experiment=demo"  # used by `snnconv train` without arguments
HELP = ("-h", "--help", "help")


@contextmanager
def _until_closed() -> Iterator[None]:
    """Context that ends without an error if the reader of the output (`| head`) has closed it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends


def main() -> None:
    """Run the command line of `snnconv` or `python -m snnconv`."""
    path = Path(sys.argv[0])
    words = ["python", "-m", "snnconv"] if path.name == "__main__.py" else [path.stem]
    name, *arguments = sys.argv[1:] or ["help"]
    if name in COMMANDS:
        run(name, arguments, [*words, name])
        return
    with _until_closed():
        _answer(name, arguments)


def _answer(name: str, arguments: list[str]) -> None:
    """Print help, the version, or what completion needs."""
    if name in HELP:
        from snnconv.commands.help import about, overview

        print(about(arguments[0]) if arguments else overview())
    elif name == "--version":
        import snnconv

        print(snnconv.__version__)
    elif name == "completion":
        from snnconv.commands.completion import script

        print(script(*arguments))
    elif name == "--complete":
        from snnconv.commands.completion import complete

        print(*complete(arguments), sep="\n")
    else:
        sys.exit(f"snnconv {name}: no such command; there are {', '.join(COMMANDS)}, as in: snnconv train model=mlp")


def run(name: str, arguments: Sequence[str] | None = None, words: Sequence[str] | None = None) -> None:
    """Run one command with `arguments` (default: those of this process); `words` start the program (default: a script)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if name == "train" and not arguments:
        arguments = [DEMO]
        print(f"No settings given, using {DEMO}; --help lists all settings")
    program.started_as(words or ["python", sys.argv[0]], arguments)
    threads.wait_passively()
    allocator.keep_freed_memory()
    try:
        home.provide()
    except OSError as error:
        sys.exit(f"there is no folder for temporary files ({error.strerror or error}); set $TMPDIR to one")
    try:
        if set(arguments) & set(HELP[:2]):
            from snnconv.commands.help import page

            with _until_closed():
                print(page(name))
        elif name == "leaderboard":
            with _until_closed():
                importlib.import_module("snnconv.commands.leaderboard").main(arguments)
        else:
            _compose(name, arguments)
    except KeyboardInterrupt:  # before there is a run, whose message says how to continue
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        logging.disable()  # torch reports statistics when Python ends
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


def _compose(name: str, arguments: list[str]) -> None:
    """Let Hydra compose the configuration from `arguments` and run the command in its folder."""
    import hydra
    from hydra.errors import CompactHydraException
    from omegaconf.errors import OmegaConfBaseException

    from snnconv.runtime import launch, mistakes, multirun, source_files
    from snnconv.runtime.configurations import CONF

    launch.register()
    whole_errors = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises errors instead of ending the process
    try:
        mistakes.require_words(arguments)
        mistakes.require_no_reference("working directory", str(Path.cwd()))
        source_files.require_network(arguments)
    except ValueError as error:
        sys.exit(str(error))
    sys.argv = [sys.argv[0], *_completed(name, arguments)]
    if name in IN_TURN:
        sys.argv = multirun.as_sweep(sys.argv)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_run)()
    except (CompactHydraException, OmegaConfBaseException) as error:
        if whole_errors:
            raise
        sys.exit(mistakes.message(error, arguments))
    except RuntimeError as error:
        if "slurm" not in str(error) or whole_errors:
            raise
        sys.exit(f"hydra/launcher=…: {error}; omit hydra/launcher if there is no cluster")


def _completed(name: str, arguments: Sequence[str]) -> list[str]:
    """`arguments` plus the command's name for Hydra, placed next to other overrides, because its parser needs them together.

    Hydra adds keys (`++`) for a mapping (model.arguments={width: 8}), and for the file of a stored model, which is not the
    default one.
    """
    stored = any(text.startswith(("run=", "resume=")) for text in arguments)
    mapping = re.compile(rf"[\w.]+\.({'|'.join(MAPPINGS)})=\{{")
    adds = [mapping.match(text) or (stored and text.startswith("model.path=")) for text in arguments]
    words = [f"++{text}" if added else text for text, added in zip(arguments, adds, strict=True)]
    first = next((at for at, text in enumerate(words) if "=" in text and not text.startswith("-")), 0)
    return [*words[:first], f"hydra.job.name={name}", *words[first:]]


def _run(cfg: "DictConfig") -> None:
    """Run the command that has the name of Hydra's job; the header is printed before the command is imported."""
    from hydra.core.hydra_config import HydraConfig

    from snnconv.runtime.opening import open_run

    with open_run(cfg) as opened:
        command: Any = importlib.import_module(f"snnconv.commands.{HydraConfig.get().job.name}")
        command.main(opened)
