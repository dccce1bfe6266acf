"""Training after conversion: the weights of a spiking network, through time, with surrogate gradients.  Rathi et al., ICLR 2020.

Training starts from a converted network, as in hybrid training (Rathi et al.).  The teacher is the ANN that was converted, or a
better network (distillation; Hinton et al., 2015).  The neurons stay plain integrate-and-fire, so inference costs nothing more.
"""

import functools
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from snnconv.conversion import method
from snnconv.conversion.method import converts
from snnconv.conversion.trainable import plain, trainable
from snnconv.conversion.trained_file import (
    history,
    load_trained,
    require_files,
    require_same_network,
    save_trained,
)
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.runtime.checkpoint import identity, weights_hash
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.simulation import Simulation
from snnconv.spiking.tasks import CLASSIFY
from snnconv.training.distillation import load_teacher
from snnconv.training.through_time import Settings, defaults, train_through_time

log = logging.getLogger(__name__)


def _rehearse(ann: nn.Module, batches: Iterable, *, base: Any, teacher: str | None = None, start: str | None = None,
              load: str | None = None, save: str | None = None, data: Any = None, simulate: Any = None, task: Any = None,
              encoder: Any = None,
              **settings: Any) -> None:  # fmt: skip
    """Check everything that `convert` needs, without training."""
    training, samples = Settings(**settings), list(batches)
    require_files(training.distill, teacher, start, load, save)
    snn = method.rehearse(functools.partial(_built(base), simulate=Simulation(fold_threshold=False)), ann, samples)
    if snn is not None:
        record = load_trained(trainable(snn, training), start or load, keep_potential=not load)
        if load:
            require_same_network(record, weights_hash(ann), load)
    if teacher and samples:
        _teacher(ann, teacher, samples[0][0])


@converts(rehearse=_rehearse, **defaults())
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    base: Any = None,
    data: Any = None,
    task: Any = None,
    encoder: Any = None,
    simulate: Simulation | Mapping[str, Any] | None = None,
    teacher: str | None = None,
    start: str | None = None,
    load: str | None = None,
    save: str | None = None,
    **settings: Any,
) -> SpikingModel:
    """`ann` converted by `base`, another method, then trained on `data` (see `training.through_time.Settings`).

    `base` is a method; `data` is an iterable of batches, or `Splits`, whose training images are used; `task` gives the loss (by
    default that of classification), and `encoder` the inputs of every step (by default the images).  All may be configurations.
    `teacher` is a run folder whose network replaces `ann` as the teacher (`trust.trusting` permits its classes).  `save` is the
    file to which the trained network is written after every epoch.  Such a file, of any T, can be the starting point of another
    training (`start`), or can be loaded instead of training (`load`); its training time is added to this model's.
    ValueError if `base` gives neurons other than plain integrate-and-fire.
    """
    training = Settings(**settings)
    require_files(training.distill, teacher, start, load, save)
    batches = batches if encoder is None else list(batches)
    snn = _built(base)(ann, batches, simulate=Simulation(fold_threshold=False))
    snn = snn if encoder is None else snn.encoded(_built(encoder), batches)
    network = trainable(snn, training)
    record = load_trained(network, start or load, keep_potential=not load)
    hashed, spent = weights_hash(ann), float(record.get("seconds", 0))
    timed = "seconds" in record or not (start or load)
    if not timed:
        log.warning("%s does not record its training time; wall_seconds.convert does not include it", start or load)
    if load:
        _check_loaded(record, hashed, load)
        save_trained(network, save, record)
    else:
        train = getattr(built := _built(data), "train", built)
        record = {
            **training.as_dict(),
            "teacher": teacher and identity(teacher),
            "start": start and history(record, hashed),
            "of": training.epochs,
            "network": hashed,
        }
        teaching = fold_batchnorm(ann) if training.distill else None  # a copy, in eval mode
        if teacher:
            teaching = _teacher(ann, teacher, next(iter(train))[0])
        began = time.perf_counter()

        def after_epoch(done: int) -> None:
            seconds = {"seconds": round(spent + time.perf_counter() - began, 3)} if timed else {}
            save_trained(network, save, {**record, "epochs": done, **seconds})

        learned = _built(task) or CLASSIFY
        if training.distill < 1:  # otherwise targets are not used
            learned = learned.prepared(getattr(train, "labels", None))
        train_through_time(network, teaching, train, training, after_epoch, task=learned, encoder=snn.encoder)
    latency = replace(snn.latency, needs_training="weights")
    timesteps: Any = training.timesteps  # `Settings` has converted it to one number
    return SpikingModel(
        plain(network), latency, timesteps=timesteps, facts=_facts(record), spent=spent, simulation=simulate
    )


def _built(part: Any) -> Any:
    return instantiate(part) if isinstance(part, Mapping) else part


def _check_loaded(record: Mapping[str, Any], network: str, load: str) -> None:
    """ValueError if `load` was trained from another network; warnings if its training is not recorded or was interrupted."""
    require_same_network(record, network, load)
    if not record:
        log.warning("method.load=%s has no record of its training; its settings may differ from method.*", load)
    elif record["epochs"] != record["of"]:
        log.warning(
            "method.load=%s: training was interrupted after epoch %d of %d", load, record["epochs"], record["of"]
        )


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a training for `result.json`: its settings, and the planned epochs if it was interrupted."""
    hidden = {"network", "seconds"} | ({"of"} if record.get("of") == record.get("epochs") else set())
    return {key: value for key, value in record.items() if value is not None and key not in hidden}


def _teacher(ann: nn.Module, run: str, images: Tensor) -> nn.Module:
    """The network of the folder `run`; ValueError if it does not accept `images` or has outputs of another shape."""
    folded = fold_batchnorm(ann)
    dtype = next(folded.parameters()).dtype
    with torch.no_grad():
        shape = folded.to(images.device)(images[:1].to(dtype)).shape[1:]
        return load_teacher(run, images[:1].float(), shape, setting="method.teacher").to(dtype)
