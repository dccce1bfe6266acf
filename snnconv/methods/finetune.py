"""Training after conversion: the weights of a spiking network, through time, with surrogate gradients.

The start from a converted network is that of hybrid training (Rathi et al., ICLR 2020); the ANN that was converted teaches, or a
better one (Hinton et al., 2015, distillation).  The neurons stay plain integrate-and-fire, so nothing is paid at inference.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from safetensors.torch import save as as_bytes
from torch import nn

from snnconv import conversion
from snnconv.data.splits import Batches
from snnconv.distillation import load_teacher, require_teacher
from snnconv.folding import fold_batchnorm
from snnconv.neurons.integrate_fire import IntegrateFire
from snnconv.neurons.surrogate import SurrogateIntegrateFire, surrogate_slope
from snnconv.runtime import checkpoint, distributed, files
from snnconv.spiking import OverTime, SpikingModel
from snnconv.surgery import set_submodule
from snnconv.through_time import Settings, train_through_time


def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    base: Any,
    data: Any,
    simulate: Mapping[str, Any] | None = None,
    teacher: str | None = None,
    trust: Sequence[str] = (),
    start: str | None = None,
    load: str | None = None,
    save: str | None = None,
    **settings: Any,
) -> SpikingModel:
    """`ann` converted by `base`, another method, then trained on the training images of `data` (see `Settings`).

    `base` and `data` are a method and `Splits`, or configurations of them.  The network of the run folder `teacher`, which may
    need `trust`, teaches in the place of `ann`.  `save` names a file for what was trained, written after every epoch; such a
    file, of any T, is where training begins with `start`, and takes its place with `load`.  ValueError if `base` gives anything
    but plain integrate-and-fire neurons.
    """
    how = Settings(**settings)
    snn = _built(base)(ann, batches, simulate=None)
    network = _trainable(snn, how)
    keep = functools.partial(_save, network, save)
    if found := load or start:
        checkpoint.load_weights(network, Path(found))
    if load:
        keep()
    else:
        train = _built(data).train
        train_through_time(network, _teacher(ann, teacher, trust, train, how), train, how, keep)
    return SpikingModel(_plain(network), replace(snn.latency, needs_training="weights"), **(simulate or {}))


def _rehearse(ann: nn.Module, batches: Iterable, *, base: Any, load: str | None = None, save: str | None = None,
              start: str | None = None, teacher: str | None = None, trust: Sequence[str] = (),
              data: Any = None, simulate: Any = None, **settings: Any) -> None:  # fmt: skip
    """Everything but the training."""
    how = Settings(**settings)
    for name, file in {"load": load, "start": start}.items():
        if file and not Path(file).is_file():
            raise ValueError(f"method.{name}={file}: no such file; method.save writes one")
    if load and start:
        raise ValueError(f"method.start={start}: nothing is trained, as method.load={load} brings a trained network")
    if teacher is not None:
        if not how.distill:
            raise ValueError(f"method.teacher={teacher}: has no say with method.distill=0")
        require_teacher(teacher, "method.teacher")
    if save and not Path(save).parent.is_dir():
        raise ValueError(f"method.save={save}: {Path(save).parent} is no folder")
    snn = conversion.rehearse(functools.partial(_built(base), simulate=None), ann, batches)
    if snn is not None:
        _trainable(snn, how)


convert.rehearse = _rehearse  # type: ignore[attr-defined]


def _built(part: Any) -> Any:
    return instantiate(part) if isinstance(part, Mapping) else part


def _trainable(snn: SpikingModel, how: Settings) -> nn.Module:
    """The network of `snn` with neurons that can be trained; ValueError where they are not plain."""
    strange = [f"{path} is a {type(n).__name__} neuron" for path, n in snn.neurons().items()
               if type(n) is not IntegrateFire or n.amplitude is not n.threshold]  # fmt: skip
    if strange or not snn.anytime or snn.lookahead != 1 or snn.discard:
        reason = strange[0] if strange else str(snn.latency)
        raise ValueError(f"method.base: what is trained are plain integrate-and-fire neurons, one step after the other; here "
                         f"{reason}; use method@method.base=qcfs")  # fmt: skip
    network = snn.network.requires_grad_()
    slope, frozen = surrogate_slope(how.surrogate), how.thresholds == "frozen"
    for path, module in list(network.named_modules()):
        if isinstance(module, OverTime):
            neuron: Any = SurrogateIntegrateFire(module.neuron, slope, how.sharpness, how.detach_reset, frozen)  # type: ignore[arg-type]
            neuron.timesteps = how.timesteps
            set_submodule(network, path, neuron)
    return network


def _plain(network: nn.Module) -> nn.Module:
    """`network` with ordinary neurons again."""
    for path, module in list(network.named_modules()):
        if isinstance(module, SurrogateIntegrateFire):
            set_submodule(network, path, OverTime(module.trained()))
    return network


def _teacher(ann: nn.Module, run: str | None, trust: Sequence[str], train: Batches, how: Settings) -> nn.Module | None:
    """The network whose outputs are asked for: `ann` or that of the folder `run`; None if only labels count."""
    if not how.distill:
        return None
    folded = fold_batchnorm(ann)  # a copy, in eval mode
    if run is None:
        return folded
    images, dtype = next(iter(train))[0], next(folded.parameters()).dtype
    with torch.no_grad():
        classes = folded.to(images.device)(images[:1].to(dtype)).shape[-1]
        return load_teacher(run, images, classes, trust=trust, setting="method.teacher").to(dtype)


def _save(network: nn.Module, file: str | None) -> None:
    """What was trained, written by the first process; without a `file`, nothing."""
    if file and distributed.is_main():
        weights = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
        files.replace(Path(file), as_bytes(weights))
