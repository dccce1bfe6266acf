"""What a sweep leaves behind: one table of all runs and one picture of all curves.

python -m snnconv.results.sweep runs/sweeps/…      the same again, for a sweep that was cut short
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.table import Table

from snnconv.results.figures import plot_curves
from snnconv.results.summary import shown_timesteps
from snnconv.runtime import distributed, files
from snnconv.runtime.run import explain
from snnconv.spiking.latency import latency_class

log = logging.getLogger(__name__)
OUTCOMES = (
    "ladder.json",
    "result.json",
    "baseline.json",
)  # of which one table is made; other scripts tell of themselves


class Summary(Callback):
    """Hydra callback: notes how each run of a sweep ended, wherever it ran, and sums up when all are over.

    Writes `job-<n>.json`, `summary.json` and `curves.png` into the sweep's folder; exits with status 1 if a run failed.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note the result or the error; a failed run then counts as over, so that Hydra goes on with the others."""
        hydra, error = config.hydra, job_return._return_value
        if hydra.mode != RunMode.MULTIRUN:
            return
        job = {"folder": hydra.runtime.output_dir, "overrides": list(hydra.overrides.task)}
        if job_return.status == JobStatus.FAILED:
            log.debug("The error in full:", exc_info=error)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
            job["error"] = explain(error)
        elif distributed.is_main():
            paths = [path for name in OUTCOMES if (path := Path(job["folder"]) / name).is_file()]
            outcome = files.read_json(paths[0]) if paths else {}
            job["result"] = outcome[-1] if isinstance(outcome, list) else outcome  # the last stage of a ladder
        if distributed.is_main():
            try:
                files.write_json(Path(hydra.sweep.dir) / f"job-{hydra.job.num}.json", job)
            except OSError as problem:  # the runs to come would fail in the same way
                sys.exit(str(problem))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and write the summary."""
        if distributed.is_main() and not summarize(Path(config.hydra.sweep.dir)):
            sys.exit(1)


def summarize(folder: Path) -> bool:
    """Sum up the sweep in `folder`, on the terminal and in files; False if a run failed or the files cannot be written."""
    console = rich.get_console()
    paths = sorted(folder.glob("job-*.json"), key=lambda path: int(path.stem[4:]))
    jobs = [files.read_json(path) for path in paths]
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        own = [text for text in job["overrides"] if text not in common]
        job["name"] = " ".join(map(_short, own)) or Path(job["folder"]).name
    if len({job["name"] for job in jobs}) < len(jobs):  # two runs whose folders have one name
        for job in jobs:
            job["name"] = " ".join(text for text in job["overrides"] if text not in common)
    done = [job for job in jobs if "result" in job]
    troubles = [f"Failed: {job['name']}: {job['error']}" for job in jobs if "error" in job]
    if done:
        spiking = [job for job in done if "snn_accuracy" in job["result"]]
        quantized = [job for job in done if "weight_bits" in job["result"]]
        for some, make in ((spiking, summary_table), (quantized, quantized_table)):
            if some:
                console.print(make(some))
        curves = {
            _legend(job): {int(t): value for t, value in job["result"]["snn_accuracy"].items()} for job in spiking
        }
        title = " ".join(text for text in jobs[0]["overrides"] if text in common)
        try:
            files.write_json(folder / "summary.json", done)
            if curves:
                plot_curves(folder / "curves.png", curves, {}, title)
        except OSError as error:
            troubles.append(str(error))
    for text in troubles:
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(done)} of {len(jobs)} runs finished. Summary: {folder}", soft_wrap=True, highlight=False)
    return bool(done) and not troubles


def _legend(job: Mapping[str, Any]) -> str:
    """The name of a run for a picture, with what its T hides."""
    hidden = latency_class(job["result"]["latency"])
    return str(job["name"]) if hidden == "plain" else f"{job['name']} [{hidden}]"


def _short(override: str) -> str:
    """An override for a table: of a run's folder the last part alone."""
    key, _, value = override.partition("=")
    return f"{key}={Path(value).name}" if key in ("run", "resume") else override


def summary_table(jobs: list[dict[str, Any]]) -> Table:
    """One row a run: what its T hides, if one's does (then also τ), the ANN's accuracy and the SNN's over time."""
    times = sorted({t for job in jobs for t in shown_timesteps(sorted(map(int, job["result"]["snn_accuracy"])))})
    classes = [latency_class(job["result"]["latency"]) for job in jobs]
    told = set(classes) != {"plain"}
    table = Table(title="Test accuracy (%)")
    keys = {job["name"].partition("=")[0] if job["name"].count("=") == 1 else "run" for job in jobs}
    key = keys.pop() if len(keys) == 1 else "run"  # the one that is swept over, if it is one
    for column in (key, *(["class"] if told else [])):
        table.add_column(column, overflow="fold")
    for column in ("ANN", *(f"T={t}" for t in times)):
        table.add_column(column, justify="right", min_width=6)
    for job, hidden in zip(jobs, classes, strict=True):
        result = job["result"]
        values = [result["ann_accuracy"], *(result["snn_accuracy"].get(str(t)) for t in times)]
        table.add_row(
            job["name"].removeprefix(f"{key}="),
            *([hidden] if told else []),
            *("–" if value is None else f"{100 * value:.2f}" for value in values),
        )
    return table


def quantized_table(jobs: list[dict[str, Any]]) -> Table:
    """One row a run of scripts/baseline.py."""
    table = Table("run", "weights", "activations", "quantized", "ANN", title="Test accuracy (%)")
    for job in jobs:
        result = job["result"]
        bits = (f"{result[name]} bits" for name in ("weight_bits", "activation_bits"))
        table.add_row(job["name"], *bits, *(f"{100 * result[name]:.2f}" for name in ("accuracy", "ann_accuracy")))
    return table


if __name__ == "__main__":
    sys.exit(not summarize(Path(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
