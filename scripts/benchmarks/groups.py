"""Groups of variants that are measured together, each a table of the benchmark."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.simulations import simulation, test_set, wide_mlp
from benchmarks.subjects import conversions, explanation, training_step, whole_curve
from benchmarks.timing import Report, peak_memory, slope, timed


@dataclass(frozen=True)
class Plan:
    """Size of the benchmark; `quick` only tests that everything runs.  `methods` gives conversion methods for a T, by name."""

    batch: int = 32
    rounds: int = 7
    quick: bool = False
    methods: Callable[[int], Mapping[str, Any]] = lambda timesteps: {}


def training(report: Report, name: str, plan: Plan) -> None:
    """A step of SGD with QCFS beside one with ReLU: seconds and memory."""
    kinds = ["relu", "naive", "ours", "relu-compiled", "ours-compiled"]
    memory = {kind: peak_memory(training_step(name, plan.batch, kind)) for kind in ("relu", "naive", "ours")}
    actions = {kind: training_step(name, plan.batch, kind) for kind in kinds}
    report.group(f"training step, {name}, batch {plan.batch}", actions, plan.rounds, images=plan.batch, memory=memory,
                 floors={"relu-compiled": "relu", "ours-compiled": "relu-compiled"})  # fmt: skip
    report.note(f"training memory, {name}, ratio to relu", **{k: v / memory["relu"] for k, v in memory.items()})


def simulated(report: Report, name: str, plan: Plan) -> None:
    """T timesteps beside T passes of the ANN, and how memory grows with T."""
    kinds = ["ann", "ann-best", "spikingjelly-s", "spikingjelly-m", "ours", "ours-dense", "ours-compiled", "ours-bf16",
             "ours-compiled-bf16"]  # fmt: skip
    for timesteps in (8,) if plan.quick else (8, 32):
        actions = {kind: simulation(name, plan.batch, timesteps, kind) for kind in kinds}
        title, rounds = f"simulation, {name}, T = {timesteps}, batch {plan.batch}", plan.rounds // (timesteps // 8)
        seconds = report.group(title, actions, max(rounds, 2), images=plan.batch)
        ratios = [a / b for a, b in zip(seconds["ours"], seconds["spikingjelly-m"], strict=True)]
        report.note(f"ours / SpikingJelly multi-step, {name}, T = {timesteps}", ratio=statistics.median(ratios))
    peaks = {t: peak_memory(simulation(name, plan.batch, t, "ours")) for t in (8, 128)}
    report.note(f"simulation memory, {name}, MiB", T8=peaks[8], T128=peaks[128], growth=peaks[128] / peaks[8])


def over_a_test_set(report: Report, name: str, plan: Plan) -> None:
    """As many images as a test set has."""
    images, timesteps = (2 * plan.batch, 8) if plan.quick else (10_000 // plan.batch * plan.batch, 32)
    kinds = ["ann-best-bf16", "ours-bf16", "ours-compiled-bf16", "spikingjelly-m"]
    actions = {kind: test_set(name, plan.batch, timesteps, kind, images) for kind in kinds}
    title = f"test set, {name}, {images} images, T = {timesteps}, batch {plan.batch}"
    report.group(title, actions, min(plan.rounds, 3), images=images)


def curve(report: Report, name: str, plan: Plan) -> None:
    """Accuracy at every t from one run, beside a run for each."""
    steps, batch = (8, plan.batch) if plan.quick else (32, 4)
    actions = {kind: whole_curve(name, batch, steps, kind) for kind in ("one run per T", "ours")}
    report.group(f"whole curve T = 1…{steps}, {name}", actions, 2)


def converted(report: Report, name: str, plan: Plan) -> None:
    """Each method, calibration included."""
    images, timesteps = (100 if plan.quick else 1000), 8
    title = f"conversion, {name}, {images} calibration images, T = {timesteps} where the network depends on T"
    report.group(title, conversions(name, images, timesteps, plan.methods(timesteps)), min(plan.rounds, 3), warmup=1)


def explained(report: Report, name: str, plan: Plan) -> None:
    """Analysis of errors and operations."""
    images, timesteps = (50, 8) if plan.quick else (500, 32)
    title = f"explanation, {name}, {images} images, T = 1, 2, 4 … {timesteps}"
    report.group(title, explanation(name, images, timesteps), min(plan.rounds, 3), images=images, warmup=1)


def scaling(report: Report, name: str, plan: Plan) -> None:
    """The exponents by which seconds grow with T, the batch, and the width of a perceptron."""
    grown: dict[str, tuple[list[int], Callable]] = {
        "T": ([4, 8, 16, 32], lambda value: simulation(name, 8, value, "ours")),
        "batch": ([8, 16, 32, 64], lambda value: simulation(name, value, 4, "ours")),
        "width (MLP)": ([512, 1024, 2048, 4096], wide_mlp),
    }
    for what, (values, build) in grown.items():
        seconds = timed({str(value): build(value) for value in values}, 2 if plan.quick else 3)
        report.note(f"scaling with {what}", exponent=slope(values, [statistics.median(s) for s in seconds.values()]))
