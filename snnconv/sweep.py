"""What a sweep leaves behind: one table of all runs and one picture of all curves."""

import sys
from pathlib import Path
from typing import Any

import rich
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from snnconv.report import plot_curves
from snnconv.runtime import files


class Summary(Callback):
    """Hydra callback: when a sweep ends, collects what its runs left on disk, wherever they ran.

    Writes `summary.json` and `curves.png` into the sweep's folder; exits with status 1 if a run failed.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and write the summary."""
        folder = Path(config.hydra.sweep.dir)
        jobs = [
            files.read_json(path) for path in sorted(folder.glob("job-*.json"), key=lambda path: int(path.stem[4:]))
        ]
        common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
        for job in jobs:
            job["name"] = " ".join(text for text in job["overrides"] if text not in common) or Path(job["folder"]).name
        done = [job for job in jobs if "result" in job]
        failed = [job for job in jobs if "error" in job]
        console = rich.get_console()
        if done:
            files.write_json(folder / "summary.json", done)
            curves = {
                job["name"]: {int(t): value for t, value in job["result"]["snn_accuracy"].items()} for job in done
            }
            plot_curves(folder / "curves.png", curves, {}, " ".join(sorted(common)))
            console.print(summary_table(done))
        for job in failed:
            console.print(
                f"Failed: {job['name']}: {job['error']}", style="red", markup=False, highlight=False, soft_wrap=True
            )
        console.print(f"{len(done)} of {len(jobs)} runs finished. Summary: {folder}", soft_wrap=True, highlight=False)
        if failed:
            sys.exit(1)


def summary_table(jobs: list[dict[str, Any]]) -> Table:
    """One row a run: the ANN's accuracy and the SNN's at powers of two."""
    times = [t for t in map(int, jobs[0]["result"]["snn_accuracy"]) if t & (t - 1) == 0]
    table = Table(title="Test accuracy (%)")
    table.add_column("run")
    for column in ("ANN", *(f"T={t}" for t in times)):
        table.add_column(column, justify="right")
    for job in jobs:
        result = job["result"]
        values = [result["ann_accuracy"], *(result["snn_accuracy"].get(str(t)) for t in times)]
        table.add_row(job["name"], *("–" if value is None else f"{100 * value:.2f}" for value in values))
    return table
