"""Kill commands at random moments, go on with them, and compare what they leave with an uninterrupted run, bit for bit.

python scripts/kill.py 0 60         a seed is one command, killed up to six times: by the clock, or at a write of a file
"""

import importlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
from killing.outcome import outcome

from snnconv import cli

RUN = "hydra.run.dir=run"
MLP = (
    "model=mlp",
    "model.hidden=[32]",
    "data=digits",
    "levels=4",
    "timesteps=8",
    "track=none",
    "device=cpu",
    "threads=1",
)
SHORT = ("fit.epochs=4", "explain.images=0", RUN)
COMPRESS = ("compress=[prune30,sparse24]", "compress.fit.epochs=3", "compress.images=20")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", *MLP, *SHORT, "fit.ema=0.9", "fit.save_every=2"),
    "finetune": ("train", *MLP, *SHORT, "method=finetune", "method.epochs=2", "method.timesteps=4"),
    "fit=finetune": ("train", *MLP, *SHORT, "fit=finetune", "model.weights=../first/run"),
    "evaluate": ("evaluate", "run=../first/run", "method=srp", "timesteps=8", "explain.images=0", RUN),
    "compress": ("compress", "run=../first/run", *COMPRESS, "timesteps=8", RUN),
    "leaderboard": ("leaderboard", "../first", "--out", "run", "--collect"),
}  # fmt: skip
RESUMES = ("train", "compress")  # the others are begun again


def start(cwd: Path, arguments: Sequence[str], write: int = 0) -> int:
    """The process of a command in `cwd`, which kills itself at its file operation number `write`."""
    cwd.mkdir(exist_ok=True)
    if process := os.fork():
        return process
    os.chdir(cwd)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _count_writes(write)
    try:
        cli.run(arguments[0], arguments[1:])
        os._exit(0)
    except SystemExit as stop:
        print(stop.code or "", flush=True)
        os._exit(int(bool(stop.code)))
    except BaseException:
        traceback.print_exc()
        os._exit(2)


def _count_writes(last: int) -> None:
    """Let this process kill itself before its operation number `last` on files, of those that `snnconv.runtime.files` uses."""
    count = itertools.count(1)

    def counted(function):
        def wrapped(*arguments, **options):
            if next(count) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    os.fsync, os.replace, os.unlink = counted(os.fsync), counted(os.replace), counted(os.unlink)


def ended(process: int, after: float = 1e9) -> int:
    """The status of a process, which is killed `after` some seconds; negative: killed."""
    end = time.monotonic() + after
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        time.sleep(0.001)


def completed(cwd: Path, arguments: Sequence[str]) -> float:
    """Seconds that an uninterrupted command takes; its output and an end of this program if it fails."""
    begin = time.monotonic()
    if status := ended(start(cwd, arguments)):
        sys.exit(f"{' '.join(arguments)}: status {status}\n{(cwd / 'output').read_text()}")
    return time.monotonic() - begin


def killed(seed: int, name: str, cwd: Path, life: float) -> tuple[list[str], str | None]:
    """The moments at which a command was killed, and the difference that this made; `life` is its time without that."""
    source, moments = random.Random(seed), list[str]()
    arguments: Sequence[str] = COMMANDS[name]
    for _ in range(source.randint(2, 6)):
        write = source.randint(1, 25) if source.random() < 0.4 else 0
        seconds = 1e9 if write else source.uniform(0, life)
        if ended(start(cwd, arguments, write), seconds) == -signal.SIGKILL:
            moments.append(f"write {write}" if write else f"{seconds:.2f} s")
        arguments = _going_on(name, cwd)
    completed(cwd, arguments)
    return moments, _difference(cwd / "run", cwd.parent / f"whole {name}" / "run")


def _going_on(name: str, cwd: Path) -> Sequence[str]:
    """The arguments of the next start: of a run that goes on, or from the beginning where nothing was begun."""
    arguments, begun = COMMANDS[name], (cwd / "run" / ".hydra" / "overrides.yaml").is_file()
    if name == "evaluate":  # which would take a new folder
        shutil.rmtree(cwd / "run", ignore_errors=True)
    return (arguments[0], "resume=run") if arguments[0] in RESUMES and begun else arguments


def _difference(folder: Path, whole: Path) -> str | None:
    ours, reference = outcome(folder), outcome(whole)
    return next(
        (f"{file} differs" for file in sorted({*ours, *reference}) if ours.get(file) != reference.get(file)), None
    )


def main(first: str, last: str) -> int:
    """The number of losses."""
    for arguments in COMMANDS.values():  # once, not in every process
        importlib.import_module(f"snnconv.commands.{arguments[0]}")
    kills = losses = 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        completed(Path(place) / "first", COMMANDS["train"])
        lives: dict[str, float] = {}  # seconds of the uninterrupted command
        for seed in range(int(first), int(last)):
            name = [*COMMANDS][seed % len(COMMANDS)]
            lives[name] = lives.get(name) or completed(Path(place) / f"whole {name}", COMMANDS[name])
            moments, loss = killed(seed, name, Path(place) / f"{seed}", lives[name])
            kills, losses = kills + len(moments), losses + (loss is not None)
            print(f"{seed} {name}: {', '.join(moments)} {loss or ''}", flush=True)
    print(f"{kills} kills, {losses} losses, {time.monotonic() - begin:.0f} s")
    return losses


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
