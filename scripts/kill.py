"""Kill commands at random moments, resume them, and compare their files bit for bit with those of an uninterrupted run.

python scripts/kill.py 0 60         each seed is one command, killed up to six times: after a random time, or at a file operation
"""

import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
from killing.outcome import outcome
from killing.processes import completed, ended, start

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
RESUMES = ("train", "compress")  # the other commands start again


def killed(seed: int, name: str, cwd: Path, life: float) -> tuple[list[str], str | None]:
    """The moments at which a command was killed, and the difference of its files or None; `life` are its seconds without kills."""
    source, moments = random.Random(seed), list[str]()
    arguments: Sequence[str] = COMMANDS[name]
    for _ in range(source.randint(2, 6)):
        write = source.randint(1, 25) if source.random() < 0.4 else 0
        seconds = 1e9 if write else source.uniform(0, life)
        if ended(start(cwd, arguments, write), seconds) == -signal.SIGKILL:
            moments.append(f"write {write}" if write else f"{seconds:.2f} s")
        arguments = _next_start(name, cwd)
    completed(cwd, arguments)
    return moments, _difference(cwd / "run", cwd.parent / f"whole {name}" / "run")


def _next_start(name: str, cwd: Path) -> Sequence[str]:
    """Arguments of the next start: resume a run that has begun, else start again."""
    arguments, begun = COMMANDS[name], (cwd / "run" / ".hydra" / "overrides.yaml").is_file()
    if name == "evaluate":  # which would use a new folder
        shutil.rmtree(cwd / "run", ignore_errors=True)
    return (arguments[0], "resume=run") if arguments[0] in RESUMES and begun else arguments


def _difference(folder: Path, whole: Path) -> str | None:
    ours, reference = outcome(folder), outcome(whole)
    return next(
        (f"{file} differs" for file in sorted({*ours, *reference}) if ours.get(file) != reference.get(file)), None
    )


def main(first: str, last: str) -> int:
    """Run the seeds and return the number of commands with a difference."""
    for arguments in COMMANDS.values():  # imported once, not in every process
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
