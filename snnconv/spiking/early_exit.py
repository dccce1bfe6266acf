"""Early exit over time: an image with a certain prediction is removed from the batch and no longer simulated.

A prediction is certain if the score of a rule (exit_rules.py) reaches a threshold, which is chosen on validation images.
"""

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from snnconv.data.batches import Batches
from snnconv.runtime import distributed
from snnconv.spiking.exit_rules import RULES, Confidence
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.simulation import Simulation, Timing
from snnconv.spiking.tasks import Task

NEVER = 1e9  # a threshold that no score reaches


@dataclass(frozen=True)
class EarlyExit:
    """Result of early exit, and of the full run of the same images."""

    threshold: float  # score at which an image exits; NEVER: no image exits
    accuracy: float
    mean_timesteps: float
    seconds: float
    full_accuracy: float
    full_timesteps: int
    full_seconds: float
    rule: str = "confidence"

    def as_dict(self) -> dict:
        """For `result.json`."""
        return asdict(self)


@torch.no_grad()
def early_exit(snn: SpikingModel, valid: Batches, test: Batches, timesteps: int) -> EarlyExit | None:
    """Choose the threshold on `valid` and evaluate early exit on `test`; None if `simulation.exit` is "none".

    Of the thresholds whose accuracy on `valid` is at most `exit_tolerance` below the full run, the one with the smallest mean T is
    chosen.  ValueError as for `require_exit`.
    """
    if snn.simulation.exit == "none":
        return None
    require_exit(snn.simulation, snn.task, snn.timing, valid.count)
    threshold = choose_threshold(snn, valid, timesteps)
    _run(snn, *next(iter(test)), 2, NEVER)  # compilation at first use is not part of the comparison
    full_accuracy, _, full_seconds = _measure(snn, test, timesteps, NEVER)
    accuracy, mean_timesteps, seconds = _measure(snn, test, timesteps, threshold)
    return EarlyExit(
        threshold, accuracy, mean_timesteps, seconds, full_accuracy, timesteps, full_seconds, snn.simulation.exit
    )


def require_exit(simulation: Simulation, task: Task, timing: Timing | None = None, valid: int | None = None) -> None:
    """Raise a ValueError if `simulation` asks for early exit and images cannot exit early.

    The task must have a confidence and the readout "mean", the method (`timing`) must not need T in advance, and there must be
    validation images (their number is `valid`); None: not checked.
    """
    if simulation.exit == "none":
        return
    asked = f"simulate.exit={simulation.exit}"
    task.require_confidence(simulation.exit)
    if task.readout != "mean":
        raise ValueError(f"{asked}: needs task.readout=mean, got task.readout={task.readout}")
    if timing is not None and not timing.anytime:
        raise ValueError(f"{asked}: this method must know T in advance, so no image can exit early")
    if valid == 0:
        raise ValueError(f"{asked}: the threshold is chosen on validation images, but data.valid=0")


def choose_threshold(snn: SpikingModel, valid: Batches, timesteps: int) -> float:
    """The score at which images exit, from one full run over `valid`; NEVER if every threshold loses too much accuracy."""
    first, thresholds = snn.latency.readout_from - 1, [*RULES[snn.simulation.exit].thresholds, NEVER]
    rows = []
    for images, labels in valid:
        means, rule = snn.read(snn(images, timesteps)), _rule(snn)
        scores = torch.full(means.shape[:2], -1.0, dtype=torch.float64, device=means.device)
        for t in range(first, timesteps):
            scores[t] = rule.score(means[t], t - first + 1)
        rows.append(torch.stack([scores, snn.task.right(means, labels).double()]))
    scores, correct = torch.cat(rows, dim=-1)  # each [T, M]
    sums = []
    for threshold in thresholds:
        leaves = (scores >= threshold).double()
        leaves[-1] = 1
        at = leaves.argmax(0)  # first step at which an image is certain
        sums.append(torch.stack([correct.gather(0, at[None]).sum(), (at + 1).double().sum()]))
    totals = distributed.sum_over_ranks(torch.stack(sums)).tolist()
    count, (full, _) = valid.count, totals[-1]
    good = [
        (steps, threshold)
        for threshold, (right, steps) in zip(thresholds, totals, strict=True)
        if right >= full - snn.simulation.exit_tolerance * count
    ]
    return min(good)[1]


def _rule(snn: SpikingModel) -> Confidence:
    return RULES[snn.simulation.exit](snn.task)


def _measure(snn: SpikingModel, batches: Batches, timesteps: int, threshold: float) -> tuple[float, float, float]:
    """Accuracy, mean timesteps and wall seconds over `batches` when images exit at `threshold`."""
    totals = torch.zeros(3, dtype=torch.float64, device=batches.device)  # correct, steps, images
    start = time.perf_counter()
    for images, labels in batches:
        correct, steps = _run(snn, images, labels, timesteps, threshold)
        totals += torch.stack([correct, steps, torch.full_like(steps, len(labels))])
    right, steps, count = distributed.sum_over_ranks(totals).tolist()
    return right / count, steps / count, time.perf_counter() - start


def _run(snn: SpikingModel, images: Tensor, labels: Tensor, timesteps: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Correct predictions and simulated steps of one batch.

    An image that becomes certain inside a chunk exits at the end of the chunk; all steps of the chunk are counted.
    """
    correct = torch.zeros((), dtype=torch.float64, device=images.device)
    spent, done, counted, rule = correct.clone(), 0, 0, _rule(snn)
    total = mean = score = correct
    steps = snn.run(images, timesteps)
    logits = next(steps)
    while True:
        first = max(snn.latency.readout_from - 1 - done, 0)
        for outputs in logits[first:].double():
            total, counted = total + outputs, counted + 1
            mean = total / counted
            score = rule.score(mean, counted)
        done += len(logits)
        settled = score >= threshold if counted else torch.zeros(len(labels), dtype=torch.bool, device=images.device)
        if done == timesteps:
            settled = torch.ones_like(settled)
        if settled.any():
            correct += snn.task.right(mean, labels)[settled].sum()
            spent += done * settled.sum()
        stay = (~settled).nonzero().flatten()
        if len(stay) == 0:
            return correct, spent
        if len(stay) < len(labels):
            labels, total = labels[stay], total[stay]
            rule.keep(stay)
            logits = steps.send(stay)
        else:
            logits = next(steps)
