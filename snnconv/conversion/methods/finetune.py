"""Training after conversion: the weights of a spiking network, through time, with surrogate gradients.

The start from a converted network is that of hybrid training (Rathi et al., ICLR 2020); the ANN that was converted teaches, or a
better one (Hinton et al., 2015, distillation).  The neurons stay plain integrate-and-fire, so nothing is paid at inference.
"""

import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from snnconv.conversion import method as conversion
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.rewrite import set_submodule
from snnconv.runtime import checkpoint, distributed, files
from snnconv.runtime.checkpoint import identity, weights_hash
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.neurons.surrogate import SurrogateIntegrateFire, surrogate_slope
from snnconv.training.distillation import load_teacher, require_teacher
from snnconv.training.through_time import Settings, train_through_time

log = logging.getLogger(__name__)


def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    base: Any,
    data: Any,
    simulate: Mapping[str, Any] | None = None,
    teacher: str | None = None,
    start: str | None = None,
    load: str | None = None,
    save: str | None = None,
    **settings: Any,
) -> SpikingModel:
    """`ann` converted by `base`, another method, then trained on the training images of `data` (see `Settings`).

    `base` and `data` are a method and `Splits`, or configurations of them.  The network of the run folder `teacher` teaches in
    the place of `ann` (what it may need is trusted by `trust.trusting`).  `save` names a file for what was trained, written
    after every epoch; such a file, of any T, is where training begins with `start`, and takes its place with `load`; the seconds
    that it took count as this model's, too.
    ValueError if `base` gives anything but plain integrate-and-fire neurons.
    """
    how = Settings(**settings)
    _require_files(how, teacher, start, load, save)
    snn = _built(base)(ann, batches, simulate=None)
    network, made = _begun(_trainable(snn, how), start or load, anew=not load)
    own, spent, told = weights_hash(ann), float(made.get("seconds", 0)), "seconds" in made or not (start or load)
    if not told:
        log.warning("%s does not say how long it was trained; wall_seconds.convert lacks that", start or load)
    if load:
        _require_its_own(made, own, load)
        if not made:
            log.warning(
                "method.load=%s does not say how it was trained; the settings of method.* need not be its own", load
            )
        elif made["epochs"] != made["of"]:
            log.warning("method.load=%s: %d epochs of %d, all that was trained of it", load, made["epochs"], made["of"])
        _save(network, save, made)
    else:
        train = _built(data).train
        made = {
            **how.as_dict(),
            "teacher": teacher and identity(teacher),
            "start": start and _history(made, own),
            "of": how.epochs,
            "network": own,
        }
        taught_by = fold_batchnorm(ann) if how.distill else None  # a copy, in eval mode
        if teacher:
            taught_by = _teacher(ann, teacher, next(iter(train))[0])
        began = time.perf_counter()

        def after_epoch(done: int) -> None:
            seconds = {"seconds": round(spent + time.perf_counter() - began, 3)} if told else {}
            _save(network, save, {**made, "epochs": done, **seconds})

        train_through_time(network, taught_by, train, how, after_epoch)
    whole = made.get("of") == made.get("epochs")
    facts = {key: value for key, value in made.items()
             if value is not None and key not in ("network", "seconds") and not (key == "of" and whole)}  # fmt: skip
    latency = replace(snn.latency, needs_training="weights")
    return SpikingModel(_plain(network), latency, facts=facts, spent=spent, **(simulate or {}))


def _rehearse(ann: nn.Module, batches: Iterable, *, base: Any, teacher: str | None = None, start: str | None = None,
              load: str | None = None, save: str | None = None, data: Any = None, simulate: Any = None,
              **settings: Any) -> None:  # fmt: skip
    """Everything but the training."""
    how, few = Settings(**settings), list(batches)
    _require_files(how, teacher, start, load, save)
    snn = conversion.rehearse(functools.partial(_built(base), simulate=None), ann, few)
    if snn is not None:
        _, made = _begun(_trainable(snn, how), start or load, anew=not load)
        if load:
            _require_its_own(made, weights_hash(ann), load)
    if teacher and few:
        _teacher(ann, teacher, few[0][0])


convert.rehearse = _rehearse  # type: ignore[attr-defined]


def _require_files(how: Settings, teacher: str | None, start: str | None, load: str | None, save: str | None) -> None:
    """ValueError where a file or a folder is not there, or would go unheeded."""
    for name, file in {"load": load, "start": start}.items():
        if file and not Path(file).is_file():
            raise ValueError(f"method.{name}={file}: no such file; method.save writes one")
    if load and (start or teacher):
        raise ValueError(f"method.{'start' if start else 'teacher'}={start or teacher}: nothing is trained, as "
                         f"method.load={load} brings a trained network")  # fmt: skip
    if teacher is not None:
        if not how.distill:
            raise ValueError(f"method.teacher={teacher}: has no say with method.distill=0")
        require_teacher(teacher, "method.teacher")
    if save and Path(save).suffix != ".safetensors":  # named by a stored configuration, it could overwrite anything
        raise ValueError(f"method.save={save}: has to end in .safetensors")
    if save and not Path(save).parent.is_dir():
        raise ValueError(f"method.save={save}: {Path(save).parent} is no folder")


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


def _begun(network: nn.Module, file: str | None, anew: bool) -> tuple[nn.Module, dict[str, Any]]:
    """`network` with what `file` holds, and how that was made; with `anew`, v(0) stays the network's own."""
    if file is None:
        return network, {}
    before = {name: tensor.clone() for name, tensor in network.named_buffers() if name.endswith("v_initial")}
    checkpoint.load_weights(network, Path(file))
    if anew:
        network.load_state_dict(before, strict=False)
    return network, _training_of(file)


def _training_of(file: str) -> dict[str, Any]:
    """How the network in `file` was trained, {} where it does not say; ValueError if it says so in no way that was ours."""
    with safe_open(file, "pt") as stored:
        text = (stored.metadata() or {}).get("training")
    if text is None:
        return {}
    try:
        made = json.loads(text)
        _history(dict(**made), "")
        if not 0 <= float(made.get("seconds", 0)) < math.inf:
            raise ValueError("seconds")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: damaged, says in no known way how it was trained") from error
    return made


def _history(made: Mapping[str, Any], own: str) -> str:
    """The trainings that led to a file, in words; what else was set, as a short hash, and whether the ANN was not `own`."""
    if not made:
        return "unknown"
    told = f"T={made['timesteps']} for {made['epochs']} of {made['of']} epochs at {made['lr']:g}"
    other = made.get("network") not in (None, own)
    rest = {key: value for key, value in made.items() if key != "seconds" and (other or key != "network")}
    short = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6]
    return f"{told}{', of another network' if other else ''}, {short}"


def _require_its_own(made: Mapping[str, Any], own: str, load: str) -> None:
    """ValueError if what `load` holds was made of another network than the one that is converted: it would count as its result."""
    if made.get("network") not in (None, own):
        raise ValueError(f"method.load={load}: was trained from the network {made['network']}, and run=… is {own}; name the run "
                         "that it came from, or train further with method.start")  # fmt: skip


def _teacher(ann: nn.Module, run: str, images: Tensor) -> nn.Module:
    """The network of the folder `run`; ValueError if it does not take the `images` or make the logits of `ann`."""
    folded = fold_batchnorm(ann)
    dtype = next(folded.parameters()).dtype
    with torch.no_grad():
        classes = folded.to(images.device)(images[:1].to(dtype)).shape[-1]
        return load_teacher(run, images[:1].float(), classes, setting="method.teacher").to(dtype)


def _save(network: nn.Module, file: str | None, made: Mapping[str, Any]) -> None:
    """What was trained and how, written by the first process; without a `file`, nothing."""
    if file and distributed.is_main():
        weights = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
        files.replace(Path(file), as_bytes(weights, {"training": json.dumps(made)}))
