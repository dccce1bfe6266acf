"""Training of an ANN: the loop over epochs, its reports, and resuming."""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from snnconv.runtime import console, distributed
from snnconv.spiking.accuracy import accuracy
from snnconv.spiking.tasks import CLASSIFY, Task
from snnconv.training.activation_noise import measure_noise
from snnconv.training.distillation import require_teacher
from snnconv.training.initialization import dirac, infer_shapes
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit
from snnconv.training.trainer import Trainer
from snnconv.training.tune import as_facts, tune

log = logging.getLogger(__name__)


@runtime_checkable
class Recorder(Protocol):
    """Protocol for the reports of `fit`: `runtime.run.Run` writes a run folder, `training.fitting.History` stays in memory."""

    folder: Any  # where states are saved, for messages
    seconds: dict[str, float]  # wall time by stage; `fit` adds to "train"

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state, or None."""

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Save the state from which the training can be resumed."""

    def best(self) -> dict[str, Any] | None:
        """The facts of the saved network, or None."""

    def save_ann(self, ann: nn.Module, facts: Mapping[str, Any]) -> None:
        """Save the best network so far."""

    def restore_best(self, ann: nn.Module) -> None:
        """Load the weights of the saved network into `ann`."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Take one epoch's numbers."""


def fit(
    ann: nn.Module,
    train: Any,
    valid: Any,
    settings: Fit,
    recorder: Recorder,
    weights: Weights | None = None,
    task: Task = CLASSIFY,
    *,
    progress: bool = True,
) -> None:
    """Train `ann` in place; afterwards it has the weights of the best epoch on `valid` (or of the last, `select="last"`).

    `train` and `valid` are `Batches` or a `Loader`; the training runs on `train.device`.
    `task` defines the loss and the score that selects the epoch; `valid_accuracy` is the mean score.
    If `weights` are quantized in training, the evaluated and saved weights are quantized as well.
    With `select="test"` the caller passes the test images as `valid` (`Splits.selecting`), and results are named accordingly.
    With `epochs=0` the network is saved without training.
    `progress` shows a progress bar for each epoch.
    With `settings.tune="auto"` a long training on a CPU uses the fastest execution settings of a short measurement.
    Resumes from the last saved epoch if there is one; on a CPU the results are the same as without interruption.
    """
    if settings.teacher is not None:
        require_teacher(settings.teacher)  # before there is a state from which to resume with the same mistake
        if settings.distill_layers and settings.compile:
            raise ValueError(
                "fit.distill_layers needs the outputs of layers, which compiled code does not provide; use compile=false"
            )
    weights, state, start = weights or Weights(), recorder.load_state(), time.perf_counter()
    if settings.dirac_init and settings.epochs and state is None:
        dirac(ann)
    infer_shapes(ann, train)
    tuning = tune(ann.to(train.device), train, settings, weights, state)
    recorder.seconds["train"] += time.perf_counter() - start
    with tuning.applied(ann) if tuning else nullcontext():
        trainer = Trainer(ann, tuning.settings(settings) if tuning else settings, train.device, weights, task)
        facts = as_facts(tuning)
        first = _start(trainer, recorder, state, facts)
        with _bar(progress) as bar:
            _epochs(trainer, train, valid, recorder, first, facts, bar)
    if trainer.layers is not None:
        trainer.layers.close()
    recorder.restore_best(ann)
    ann.eval()


def _epochs(
    trainer: Trainer, train: Any, valid: Any, recorder: Recorder, first: int, facts: Mapping[str, Any], bar: Progress
) -> None:
    """Train, evaluate, report and save, starting with epoch `first`; `facts` are stored with every state."""
    ann, settings, weights = trainer.ann, trainer.settings, trainer.weights
    trained = settings.epochs and weights.train and weights.bits is not None
    quantized = {"weights": weights.facts()} if trained else {}
    best, score = recorder.best(), "test_accuracy" if settings.select == "test" else "valid_accuracy"
    if settings.select == "test":
        log.warning(
            "fit.select=test: the epoch is chosen on the test set, so the reported test accuracy is too optimistic"
        )
    for epoch in range(first, settings.epochs):
        start = time.perf_counter()
        with weights.trained(ann):
            measure_noise(ann, valid)
        loss, train_accuracy = trainer.epoch(epoch, train, bar)
        distributed.share_buffers(trainer.evaluated)
        with weights.trained(trainer.evaluated):
            scores = {score: accuracy(trainer.evaluated, valid, trainer.task)} if valid.count else {}
            recorder.seconds["train"] += time.perf_counter() - start
            if settings.select == "last" or best is None or scores[score] > best[score]:
                best = {"epoch": epoch + 1, **scores}
                recorder.save_ann(trainer.evaluated, {**best, **quantized, **facts})
        seconds = recorder.seconds["train"]
        recorder.log({
            "epoch": epoch, "loss": loss, "train_accuracy": train_accuracy, **scores,
            "lr": trainer.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 3), **_thresholds(trainer.evaluated),
        })  # fmt: skip
        if (epoch + 1) % settings.save_every == 0 or epoch + 1 == settings.epochs:
            recorder.save_state({"epoch": epoch + 1, "seconds": seconds, "training": trainer.state(), **facts})
        shares = "".join(f"{name.split('_')[0]} {100 * value:.2f} %  " for name, value in scores.items())
        log.info("epoch %d/%d  loss %.4f  train %.2f %%  %s%.0f s", epoch + 1, settings.epochs, loss,
                 100 * train_accuracy, shares, seconds)  # fmt: skip


def _thresholds(ann: nn.Module) -> dict[str, dict[str, float]]:
    """θ of each activation that has one, the mean over its channels, as {"thresholds": θ by path}; {} without any."""
    sites = {path: module.threshold for path, module in ann.named_modules() if hasattr(module, "set_threshold")}
    if not sites:
        return {}
    means = torch.stack([theta.detach().double().mean() for theta in sites.values()])  # read from the device at once
    return {"thresholds": dict(zip(sites, means.tolist(), strict=True))}


def _start(trainer: Trainer, recorder: Recorder, state: dict[str, Any] | None, facts: Mapping[str, Any]) -> int:
    """The first epoch: that of the saved `state`, or 0 for a new training."""
    first = 0
    if state is not None:
        try:
            trainer.load(state["training"])
        except ValueError as error:
            raise ValueError(f"{Path(recorder.folder) / 'last.ckpt'}: {error}") from error
        first, recorder.seconds["train"] = state["epoch"], state["seconds"]
        log.info("Resuming after epoch %d of %d", first, trainer.settings.epochs)
    else:
        if not trainer.settings.epochs:
            recorder.save_ann(trainer.ann, {"epoch": 0})
        recorder.save_state({
            "epoch": 0, "seconds": recorder.seconds["train"], "training": trainer.state(), **facts,
        })  # fmt: skip
    trainer.keep_zeros()
    return first


def _bar(visible: bool) -> Progress:
    """The progress bar of an epoch, in the first process."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, transient=True, console=console.for_progress(visible))
