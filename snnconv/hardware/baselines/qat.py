"""Quantization-aware training: a quantized network is trained for a few more epochs."""

import logging
import math
from dataclasses import replace
from typing import Any

from rich.progress import track
from torch import nn

from snnconv.data.batches import first_images
from snnconv.data.splits import Splits
from snnconv.hardware.baselines.ptq import Quantized, Settings, calibrated, with_modules
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.runtime import distributed
from snnconv.runtime.run import TrainingError
from snnconv.spiking.tasks import CLASSIFY, Task
from snnconv.training.epochs import Totals, set_lr
from snnconv.training.optimizers import optimizer_of
from snnconv.training.settings import Fit

log = logging.getLogger(__name__)


def qat(
    ann: nn.Module,
    data: Splits,
    task: Task = CLASSIFY,
    *,
    epochs: int = 3,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    average: float = 0.9,
    **settings: Any,
) -> Quantized:
    """`ann` quantized by `ptq.static` (`settings`; `average` is its momentum), then trained for `epochs` epochs.

    The optimizer is SGD, on the loss of the task.
    Rounding has a straight-through gradient for values inside the range.  Ranges are fixed, except for θ, which is trained.  With
    one scale per output channel batch norms are trained as well, because each is a factor and a bias per channel, which the scale
    absorbs exactly; otherwise they are folded first.  The weights of the last epoch are used.  ValueError for wrong settings.
    """
    if type(epochs) is not int or epochs < 1:
        raise ValueError(
            f"baseline.epochs={epochs!r}: must be an integer of at least 1; for no training use baseline=ptq_static"
        )
    try:
        fit = Fit(epochs=epochs, lr=lr, batch_size=data.train.batch_size, momentum=momentum, weight_decay=weight_decay)
    except ValueError as error:
        raise ValueError(str(error).replace("fit.", "baseline.")) from error
    if distributed.world_size() > 1:
        raise ValueError("baseline=qat: supports only one process; start it without torchrun")
    quantize = Settings(momentum=average, **settings)
    network = with_modules(ann, first_images(data.calibration, 2))
    quantized = calibrated(network if quantize.per_channel else fold_batchnorm(network), data.calibration, quantize)
    _train(quantized.network, data, fit, task)
    return replace(quantized, network=quantized.network.eval())


def _train(network: nn.Module, data: Splits, fit: Fit, task: Task) -> None:
    """Train `network` in place.  TrainingError if the loss is not finite."""
    network.to(data.train.device).requires_grad_()
    optimizer, steps = optimizer_of(network, fit), len(data.train)
    for epoch in range(fit.epochs):
        data.train.set_epoch(epoch)
        network.train()
        totals = Totals(data.train.device)
        batches = track(data.train, f"epoch {epoch + 1}/{fit.epochs}", steps, transient=True)
        for index, (images, labels) in enumerate(batches):
            set_lr(optimizer, fit.lr_at(epoch * steps + index, steps))
            logits = network(images)
            loss = task.loss(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            totals.add(loss, task.right(logits.detach(), labels))
        mean, correct = totals.means()
        if not math.isfinite(mean):
            raise TrainingError(f"baseline=qat: the loss is not finite in epoch {epoch + 1}; try a smaller baseline.lr")
        log.info("qat %d/%d  loss %.4f  train %.2f %%", epoch + 1, fit.epochs, mean, 100 * correct)
