"""Jobs that need a GPU, in slices of limited time; each slice continues where the last one ended, most important jobs first.

make gpu                                                    the same as python scripts/gpu.py
python scripts/gpu.py [--minutes 9] [--only NAME,…] [--data DIR] [--out DIR] [--dry]
python scripts/gpu.py --device cpu --tiny --out DIR         a rehearsal: every job for real, on little data

A job is a command of this repository in a process of its own.  Trainings are interrupted at the end of a slice and resumed
from their run folder (runs/gpu/…) by the next; any other job that does not fit waits for a slice of its own.  Results and
state are in --out, which is small: on another machine the next slice continues from it, and only an unfinished training starts
again, because its run folder (weights, momentum) is too large to copy.
experiments/gpu/README.md describes the use of a machine that is lent for half an hour.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from snnconv.runtime import files
from snnconv.runtime.program import override

ROOT = Path(__file__).resolve().parents[1]
GRACE = 20  # seconds in which an interrupted job can end by itself
YOUNG = 5  # a job younger than this (seconds) has nothing to save
FRESH = {"status": "waiting", "minutes": 0.0, "slices": 0, "note": ""}


@dataclass(frozen=True)
class Job:
    """One command: arguments of python, and the minutes that it may take (a guess for a new data-centre GPU)."""

    name: str
    command: tuple[str, ...]
    minutes: float
    data: str = ""  # folder of the data set that it needs

    @property
    def trains(self) -> bool:
        """True if the job can be interrupted and resumed."""
        return self.command[0] == "train.py"


def training(experiment: str, minutes: float, *options: str, seed: int | None = None) -> Job:
    """A recipe; its seed is in the name where several are run."""
    seeds = () if seed is None else (f"seed={seed}",)
    name = experiment if seed is None else f"{experiment}-{seed}"
    data = "cifar-100-python" if experiment.startswith("cifar100") else "cifar-10-batches-py"
    return Job(name, ("train.py", f"experiment={experiment}", *seeds, "track=none", *options), minutes, data)


def benchmark(name: str, models: str, groups: str, batch: int, minutes: float) -> Job:
    """Some groups of scripts/benchmark.py."""
    options = ("--only", groups, "--models", models, "--batch", str(batch))
    return Job(name, ("scripts/benchmark.py", *options), minutes)


# The papers train in float32; torch's default on current GPUs is TF32 convolutions, and a state of 300 MB is not written
# after every epoch.
PAPER = ("precision=tf32", "compile=true", "fit.channels_last=true", "fit.save_every=10")
PLAN = [
    Job(
        "tests",
        ("-m", "pytest", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "tests/project/test_gpu.py"),
        3,
    ),
    *(training("cifar10_vgg16_fast", 3, seed=seed) for seed in (0, 1, 2)),
    benchmark("simulation", "vgg16", "testset", 500, 4),
    *(training("cifar10_resnet18_fast", 3, seed=seed) for seed in (0, 1, 2)),
    training("cifar10_vgg16_qcfs", 10, *PAPER),
    benchmark("benchmark_training", "resnet18,vgg16", "training", 256, 8),
    benchmark("benchmark_simulation", "resnet18,vgg16", "simulation", 256, 8),
    benchmark("benchmark_rest", "resnet18", "curve,conversion,scaling", 256, 4),
    training("cifar10_resnet18_qcfs", 20, *PAPER),
    training("cifar100_vgg16_qcfs", 10, *PAPER),
]
TINY = ("model=mlp", "model.hidden=[32]", "data=synthetic", "fit.epochs=40", "fit.batch_size=64", "fit.save_every=1",
        "precision=float32", "compile=false", "timesteps=2")  # fmt: skip


class Slice:
    """Runs jobs until `end`, and holds the state of all of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.work = Path("runs") / ("gpu-tiny" if options.tiny else "gpu")
        path = self.out / "state.json"
        self.state: dict[str, Any] = files.read_json(path) if path.is_file() else {"machines": [], "jobs": {}}
        self.end = time.monotonic() + 60 * options.minutes

    def of(self, job: Job) -> dict[str, Any]:
        """State of a job."""
        return self.state["jobs"].setdefault(job.name, dict(FRESH))

    def save(self) -> None:
        """Write the state."""
        files.write_json(self.out / "state.json", self.state)

    def run(self, jobs: Sequence[Job], machine: str) -> None:
        """Work through the jobs that are not done until the time is over; Ctrl-C ends the slice early."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.state["machines"] = sorted({*self.state["machines"], machine})
        begun = False
        for job in jobs:
            state, left = self.of(job), self.end - time.monotonic()
            retry = self.options.only and state["status"] == "failed"
            if state["status"] in ("done", "failed") and not retry:
                continue
            if job.data and not self.options.tiny and not (self.options.data / job.data).is_dir():
                state["note"] = f"no {job.data} in --data"
                continue
            if left <= 0 or (begun and left < 60 * (1 if job.trains else job.minutes)):
                continue
            begun = True
            try:
                self.step(job, state, left)
            except KeyboardInterrupt:
                break
            finally:
                self.save()
        self.save()

    def step(self, job: Job, state: dict[str, Any], seconds: float) -> None:
        """Run or resume one job for at most so many seconds, and collect its results."""
        folder, log, start = self.work / job.name, self.work / f"{job.name}.log", time.monotonic()
        if state["status"] == "unfinished" and not (folder / "last.ckpt").is_file():
            state |= FRESH | {"note": "started again: no state of it here"}
        print(f"{job.name}: up to {seconds / 60:.1f} minutes, {log}", flush=True)
        whole, interrupted, status = seconds >= 0.9 * 60 * self.options.minutes, False, None
        state |= {"status": "unfinished", "slices": state["slices"] + 1}
        self.save()
        try:
            status = until(self.command(job, folder), self.environment(), log, seconds)
        except KeyboardInterrupt:
            interrupted = True
        state["minutes"] = round(state["minutes"] + (time.monotonic() - start) / 60, 2)
        if status == 0:
            state |= {"status": "done", "note": self.collect(job, folder, log)}
        elif status is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or [""]
            state |= {"status": "failed", "note": f"status {status}: {lines[-1]}"}
            with (self.out / "failures.txt").open("a") as stream:
                stream.write("\n".join([job.name, *lines[-200:], "", ""]))
        elif job.trains:
            state["note"] = f"{len(files.read_lines(folder / 'metrics.jsonl'))} epochs"
        elif whole and not interrupted:
            state |= {"status": "failed", "note": "takes longer than a slice"}
        else:
            state |= {"status": "waiting", "note": "did not fit into the rest of a slice"}
        if interrupted:
            raise KeyboardInterrupt

    def command(self, job: Job, folder: Path) -> list[str]:
        """The arguments of python."""
        program = [os.path.relpath(ROOT / part) if part.endswith(".py") else part for part in job.command]
        if not job.trains:
            tiny = ["--quick"] if self.options.tiny and "benchmark" in program[0] else []
            json_file = ["--json", str(folder.with_suffix(".json"))] if "benchmark" in program[0] else []
            return [*program, *tiny, *json_file]
        if (folder / "last.ckpt").is_file():
            return [program[0], override("resume", str(folder))]
        tiny = list(TINY) if self.options.tiny else []
        return [*program, f"device={self.options.device}", override("hydra.run.dir", str(folder)), *tiny]

    def environment(self) -> dict[str, str]:
        """Environment variables of the jobs."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.options.device == "cpu" else {}
        return {**os.environ, "PYTHONPATH": path, "SNNCONV_DATA": str(self.options.data.resolve()), **hidden}

    def collect(self, job: Job, folder: Path, log: Path) -> str:
        """Copy the results of a finished job to --out; returns a summary of a few words."""
        if job.trains:
            result = json.loads((folder / "result.json").read_text())
            others = [row for row in files.read_lines(self.out / "results.jsonl") if row["job"] != job.name]
            rows = [*others, {"job": job.name, **result}]
            files.write_text(self.out / "results.jsonl", "".join(map(files.json_line, rows)))
            self.plot(rows)
            curve = {t: value for t, value in result["snn_accuracy"].items() if int(t) in (2, 4, 8, 32)}
            return f"ANN {100 * result['ann_accuracy']:.2f}" + "".join(
                f", T={t} {100 * v:.2f}" for t, v in curve.items()
            )
        output = log.read_text(errors="replace").strip()
        if job.name == "tests":
            files.write_text(self.out / "tests.txt", output + "\n")
            return output.rpartition("\n")[2]
        path = self.out / "benchmark.json"
        figures = files.read_json(path) if path.is_file() else {}
        figures[job.name] = files.read_json(folder.with_suffix(".json"))
        files.write_json(path, figures)
        with (self.out / "benchmark.txt").open("a") as stream:
            stream.write(f"{job.name}\n{output}\n\n")
        seconds = {row["variant"]: min(row["seconds"]) for row in figures[job.name]["rows"] if "variant" in row}
        return ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items()) if job.name == "simulation" else ""

    def plot(self, rows: Sequence[dict[str, Any]]) -> None:
        """One curve a recipe, the mean over its seeds."""
        from snnconv.results.figures import plot_curves

        recipes = defaultdict(list)
        for row in rows:
            recipes[row["job"].partition("-")[0]].append(row["snn_accuracy"])
        curves = {
            f"{name} (n = {len(seeds)})": {int(t): sum(curve[t] for curve in seeds) / len(seeds) for t in seeds[0]}
            for name, seeds in recipes.items()
        }
        plot_curves(self.out / "curves.png", curves, {}, "trained on a GPU, L = 4, qcfs")

    def table(self, jobs: Sequence[Job]) -> Table:
        """The plan with the status of each job."""
        table = Table(title=", ".join(self.state["machines"]))
        for column in ("job", "status", "minutes", "guess", "slices", "outcome"):
            table.add_column(column, justify="right" if column in ("minutes", "guess", "slices") else "left")
        for job in jobs:
            state = self.of(job)
            numbers = (f"{state['minutes']:.1f}", f"{job.minutes:g}", str(state["slices"]))
            table.add_row(job.name, state["status"], *numbers, state["note"])
        return table


def until(command: Sequence[str], environment: dict[str, str], log: Path, seconds: float) -> int | None:
    """The exit status of a python command, None if it had to be interrupted after so many seconds; it writes to `log`."""
    start = time.monotonic()
    with log.open("ab") as stream:
        process = subprocess.Popen([sys.executable, *command], stdout=stream, stderr=subprocess.STDOUT, env=environment,
                                   process_group=0)  # fmt: skip
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            asked = [] if time.monotonic() - start < YOUNG else [(signal.SIGINT, GRACE)]  # imports may swallow it
            for sign, patience in (*asked, (signal.SIGKILL, None)):
                if process.poll() is None:
                    os.killpg(process.pid, sign)
                    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # a further Ctrl-C: no more patience
                        process.wait(patience)


def machine_name(device: str) -> str:
    """The GPU's name; an error if there is none."""
    if device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device here; to rehearse: --device cpu --tiny --out DIR")
    return torch.cuda.get_device_name()


def main() -> None:
    """One slice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="length of the slice; it ends at most half a minute later"
    )
    parser.add_argument(
        "--only", default="", help="jobs by the beginning of their names; one that failed is tried again"
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SNNCONV_DATA", "data")))
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="a small network on synthetic data, in place of each recipe"
    )
    parser.add_argument("--dry", action="store_true", help="only show the plan")
    options = parser.parse_args()
    wanted = tuple(filter(None, options.only.split(",")))
    jobs = [job for job in PLAN if not wanted or job.name.startswith(wanted)]
    if not jobs:
        parser.error(f"--only {options.only}: choose from {', '.join(job.name for job in PLAN)}")
    if options.tiny and options.out == parser.get_default("out"):
        parser.error("--tiny produces no results; name another folder with --out")
    part = Slice(options)
    if not options.dry:
        part.run(jobs, machine_name(options.device))
    Console(width=160).print(part.table(jobs))


if __name__ == "__main__":
    main()
