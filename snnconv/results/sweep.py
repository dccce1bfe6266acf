"""Summary of a sweep: one table of all runs and one picture of all curves.

python -m snnconv.results.sweep runs/sweeps/…      the same again, for a sweep that was cut short
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from snnconv.results.figures import plot_curves
from snnconv.results.records import Baseline, Curve, Result
from snnconv.results.seeds import legend, mean_curves, over_seeds, seeds_table
from snnconv.results.summary import shown_timesteps
from snnconv.runtime import distributed, files
from snnconv.runtime.opening import explain
from snnconv.spiking.latency import latency_class

log = logging.getLogger(__name__)
OUTCOMES = (
    "ladder.json",
    "result.json",
    "baseline.json",
)  # summed up in one table; other scripts print their own


class Summary(Callback):
    """Hydra callback: records the result of each run of a sweep, on any machine, and writes a summary at the end.

    Writes `job-<n>.json`, `summary.json` and `curves.png` to the folder of the sweep; exits with status 1 if a run failed.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record the result or the error; a failed run counts as finished, so that Hydra continues with the others."""
        hydra, error = config.hydra, job_return._return_value
        if hydra.mode != RunMode.MULTIRUN:
            return
        job = {"folder": hydra.runtime.output_dir, "overrides": OmegaConf.to_container(hydra.overrides.task)}
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
        different = [text for text in job["overrides"] if text not in common]
        job["name"] = " ".join(map(_short, different)) or Path(job["folder"]).name
    if len({job["name"] for job in jobs}) < len(jobs):  # two runs whose folders have one name
        for job in jobs:
            job["name"] = " ".join(text for text in job["overrides"] if text not in common)
    done = [job for job in jobs if "result" in job]
    troubles = [f"Failed: {job['name']}: {job['error']}" for job in jobs if "error" in job]
    if done:
        spiking = [
            (job["name"], Result.from_dict(job["result"], job["folder"]))
            for job in done
            if "snn_accuracy" in job["result"]
        ]
        quantized = [
            (job["name"], Baseline.from_dict(job["result"], job["folder"]))
            for job in done
            if "weight_bits" in job["result"]
        ]
        if spiking:
            console.print(summary_table(spiking))
        if quantized:
            console.print(quantized_table(quantized))
        curves: Mapping[str, Curve] = {legend(name, result): result.snn_accuracy for name, result in spiking}
        bands: Mapping[str, Curve] = {}
        if groups := over_seeds(spiking):
            console.print(seeds_table(groups))
            curves, bands = mean_curves(groups)
        title = " ".join(text for text in jobs[0]["overrides"] if text in common)
        try:
            files.write_json(folder / "summary.json", done)
            if curves:
                plot_curves(folder / "curves.png", curves, {}, title, bands=bands)
        except OSError as error:
            troubles.append(str(error))
    for text in troubles:
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{len(done)} of {len(jobs)} runs finished. Summary: {folder}", soft_wrap=True, markup=False, highlight=False
    )
    return bool(done) and not troubles


def _short(override: str) -> str:
    """An override for a table: of a run's folder the last part alone."""
    key, _, value = override.partition("=")
    return f"{key}={Path(value).name}" if key in ("run", "resume") else override


def summary_table(results: Sequence[tuple[str, Result]]) -> Table:
    """One row a run: its latency class (if one is not plain), the ANN's accuracy and the SNN's over time."""
    times = sorted({t for _, result in results for t in shown_timesteps(sorted(result.snn_accuracy))})
    classes = [latency_class(result.latency) for _, result in results]
    with_class = set(classes) != {"plain"}
    table = Table(title="Test accuracy (%)")
    keys = {name.partition("=")[0] if name.count("=") == 1 else "run" for name, _ in results}
    key = keys.pop() if len(keys) == 1 else "run"  # the one that is swept over, if it is one
    for column in (key, *(["class"] if with_class else [])):
        table.add_column(column, overflow="fold")
    for column in ("ANN", *(f"T={t}" for t in times)):
        table.add_column(column, justify="right", min_width=6)
    for (name, result), hidden in zip(results, classes, strict=True):
        values = [result.ann_accuracy, *(result.snn_accuracy.get(t) for t in times)]
        table.add_row(
            name.removeprefix(f"{key}="),
            *([hidden] if with_class else []),
            *("–" if value is None else f"{100 * value:.2f}" for value in values),
        )
    return table


def quantized_table(results: Sequence[tuple[str, Baseline]]) -> Table:
    """One row a run of scripts/baseline.py."""
    table = Table("run", "weights", "activations", "quantized", "ANN", title="Test accuracy (%)")
    for name, result in results:
        bits = (f"{each} bits" for each in (result.weight_bits, result.activation_bits))
        table.add_row(name, *bits, *(f"{100 * each:.2f}" for each in (result.accuracy, result.ann_accuracy)))
    return table


if __name__ == "__main__":
    sys.exit(not summarize(Path(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
