"""Files of trained spiking networks (method=finetune): the weights, and a record of their training."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import nn

from snnconv.runtime import checkpoint, distributed, files
from snnconv.training.distillation import require_teacher


def require_files(distill: float, teacher: str | None, start: str | None, load: str | None, save: str | None) -> None:
    """ValueError if a file or folder does not exist, or would have no effect."""
    for name, file in {"load": load, "start": start}.items():
        if file and not Path(file).is_file():
            raise ValueError(f"method.{name}={file}: no such file; method.save writes one")
    if load and (start or teacher):
        raise ValueError(f"method.{'start' if start else 'teacher'}={start or teacher}: nothing is trained, as "
                         f"method.load={load} brings a trained network")  # fmt: skip
    if teacher is not None:
        if not distill:
            raise ValueError(f"method.teacher={teacher}: has no effect with method.distill=0")
        require_teacher(teacher, "method.teacher")
    if save and Path(save).suffix != ".safetensors":  # named by a stored configuration, it could overwrite anything
        raise ValueError(f"method.save={save}: must end in .safetensors")
    if save and not Path(save).parent.is_dir():
        raise ValueError(f"method.save={save}: {Path(save).parent} is not a folder")


def save_trained(network: nn.Module, file: str | None, record: Mapping[str, Any]) -> None:
    """Write the weights of `network` and the `record` of its training to `file`, if given, in the first process."""
    if file and distributed.is_main():
        weights = {name: t.detach().contiguous().cpu().clone() for name, t in checkpoint.distinct(network).items()}
        files.replace(Path(file), as_bytes(weights, {"training": json.dumps(record)}))


def load_trained(network: nn.Module, file: str | None, keep_potential: bool) -> dict[str, Any]:
    """Load the weights in `file` into `network` and return the record of its training; {} without a file.

    With `keep_potential` v(0) is not loaded.
    """
    if file is None:
        return {}
    before = {name: tensor.clone() for name, tensor in network.named_buffers() if name.endswith("v_initial")}
    checkpoint.load_weights(network, Path(file))
    if keep_potential:
        network.load_state_dict(before, strict=False)
    return training_record(file)


def training_record(file: str) -> dict[str, Any]:
    """The record of the training in `file`, or {} if it has none; ValueError if it cannot be read."""
    with safe_open(file, "pt") as stored:
        text = (stored.metadata() or {}).get("training")
    if text is None:
        return {}
    try:
        record = json.loads(text)
        history(dict(**record), "")
        if not 0 <= float(record.get("seconds", 0)) < math.inf:
            raise ValueError("seconds")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: damaged, its record of the training cannot be read") from error
    return record


def history(record: Mapping[str, Any], network: str) -> str:
    """The trainings that led to a file, in words: timesteps, epochs, learning rate, and a short hash of all other settings.

    `network` is the hash of the ANN that is converted now; another one is mentioned.
    """
    if not record:
        return "unknown"
    words = f"T={record['timesteps']} for {record['epochs']} of {record['of']} epochs at {record['lr']:g}"
    other = record.get("network") not in (None, network)
    rest = {key: value for key, value in record.items() if key != "seconds" and (other or key != "network")}
    short = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6]
    return f"{words}{', of another network' if other else ''}, {short}"


def require_same_network(record: Mapping[str, Any], network: str, load: str) -> None:
    """ValueError if the network in `load` was trained from another ANN than the one that is converted, `network`."""
    if record.get("network") not in (None, network):
        raise ValueError(f"method.load={load}: was trained from the network {record['network']}, and run=… is {network}; name the "
                         "run that it came from, or train further with method.start")  # fmt: skip
