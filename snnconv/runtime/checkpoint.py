"""Trained networks on disk (`ann.safetensors` and `ann.json`) and checkpoints (`last.ckpt`).  Nothing is unpickled."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from snnconv.runtime import environment, files, moved_names, user_files, zoo
from snnconv.runtime.trust import NETWORK, granted, require_trusted

FORMAT = 1  # of ann.json and last.ckpt; increase it when old files can no longer be read


def save_ann(folder: Path, ann: nn.Module, model: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write `ann.safetensors`, then `ann.json` with `model`, the configuration that rebuilds the network, and `facts`."""
    activations = {path: module for path, module in ann.named_modules() if hasattr(module, "set_threshold")}
    description = {
        "format": FORMAT,
        "config": {"model": model},
        **facts,
        "activation": activation_names(ann),
        "thresholds": {path: module.threshold.detach().flatten().tolist() for path, module in activations.items()},
        "levels": next((module.levels for module in activations.values()), None),
        "versions": environment.versions(),
        "commit": environment.commit(),
    }
    files.replace(folder / "ann.safetensors", _as_bytes(ann))
    files.write_json(folder / "ann.json", description)


def activation_names(ann: nn.Module) -> str | None:
    """The classes of the activation modules in `ann`, sorted: "QCFS", "GELU, ReLU"; None if it has none."""
    names = {
        type(module).__name__ for module in ann.modules() if hasattr(module, "set_threshold") or _is_activation(module)
    }
    return ", ".join(sorted(names)) or None


def _is_activation(module: nn.Module) -> bool:
    """Whether `module` is an elementwise activation of torch.nn, or of a class derived from one."""
    derived = any(kind.__module__ == "torch.nn.modules.activation" for kind in type(module).__mro__)
    return derived and not isinstance(
        module, nn.MultiheadAttention | nn.Softmax | nn.Softmax2d | nn.LogSoftmax | nn.Softmin
    )


def describe_ann(run: str | Path) -> dict[str, Any]:
    """The content of `ann.json` of a run, with present names and paths; an error names the file if it is missing or damaged."""
    folder = zoo.located(run)
    path = folder / "ann.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"{run}: this run folder does not exist")
    for name in ("ann.json", "ann.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{run}: contains no {name}; a run writes it after its first epoch")
    description = files.read_json(path)
    _require_format(path, description)
    config = description.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("model"), Mapping):
        raise ValueError(f"{path}: damaged, it does not describe a network (config.model)")
    model = user_files.located(moved_names.current(config["model"]), folder)
    return {**description, "config": {**config, "model": model}}


def _require_format(path: Path, content: Any) -> None:
    version = content.get("format") if isinstance(content, Mapping) else None
    if version != FORMAT:
        raise ValueError(
            f"{path}: has format {version!r}, but this version of snnconv reads format {FORMAT}; use the version that wrote it"
        )


def load_ann(run: str | Path, *, trust: Sequence[str] = (), path: str | None = None) -> nn.Module:
    """The trained network of a run folder, or of an entry of the zoo ("zoo/name"), in eval mode on the CPU.

    Its classes must belong to snnconv, or to a package or Python file named in `trust` (or by `trusting`), so that a run folder of
    another person cannot run code.  `path` replaces the path of the Python file that it names.
    """
    model = describe_ann(run)["config"]["model"]
    if path is not None:
        model = user_files.replaced(model, path)
    require_trusted(model, (*trust, *granted()), NETWORK)
    try:
        ann = instantiate(model)
    except TypeError as error:  # from Hydra, about its own keys
        raise ValueError(f"{run}: damaged, the network in ann.json cannot be built ({error})") from error
    load_weights(ann, zoo.located(run) / "ann.safetensors")
    return ann.eval()


def distinct(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of `network` with each tensor once: tied weights and aliases have their first name."""
    tensors: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        tensors.setdefault(id(tensor), (name, tensor))
    return dict(tensors.values())


def _as_bytes(network: nn.Module) -> bytes:
    return save({name: tensor.detach().contiguous().cpu().clone() for name, tensor in distinct(network).items()})


def require_savable(network: nn.Module) -> None:
    """Raise a ValueError unless the state of `network` can be saved, which is needed at the end of training."""
    try:
        _as_bytes(network)
    except Exception as error:  # a user's state dict may contain anything
        raise ValueError(
            f"{type(network).__name__}: its state cannot be saved ({error}); it must contain only tensors"
        ) from error


def weights_hash(run: str | Path | nn.Module) -> str:
    """A short hash of the weights in a run folder, or of a network; a saved network has the same hash as its run folder."""
    content = _as_bytes(run) if isinstance(run, nn.Module) else (zoo.located(run) / "ann.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def identity(run: str | Path) -> str:
    """The identity of the network of a run folder, independent of the seed: its recipe, or a hash of its weights."""
    return describe_ann(run).get("recipe") or weights_hash(run)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a safetensors file into `network`; ValueError listing the differences if names or shapes do not match."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged, or not a safetensors file ({error})") from error
    take_shapes(network, weights)
    once = distinct(network)
    expected = {name: t for name, t in network.state_dict().items() if name in once or name in weights}
    differences = compare(expected, weights)
    if differences:
        raise ValueError(f"{path} does not fit {type(network).__name__}:\n  " + "\n  ".join(differences))
    network.load_state_dict(weights, strict=False)


def take_shapes(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give parameters of `network` whose shape depends on the data, such as a threshold per channel, their shapes in `weights`."""
    for path, module in network.named_modules():
        if hasattr(module, "take_shapes"):
            module.take_shapes(weights, f"{path}." if path else "")


def compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], most: int = 12) -> list[str]:
    """Differences in names and shapes between two state dicts, one per line: at most `most`, with some of every kind."""
    missing = [f"missing: {name} {list(expected[name].shape)}" for name in expected if name not in got]
    unknown = [f"unknown: {name} {list(got[name].shape)}" for name in got if name not in expected]
    shapes = [
        f"shape: {name} is {list(got[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in got and got[name].shape != tensor.shape
    ]
    ranked = sorted((i, kind) for kind, lines in enumerate((missing, unknown, shapes)) for i in range(len(lines)))
    listed = [(missing, unknown, shapes)[kind][i] for kind, i in sorted((kind, i) for i, kind in ranked[:most])]
    return listed if len(ranked) <= most else [*listed, f"… and {len(ranked) - most} more"]


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state from which a run can be resumed: only tensors and plain values."""
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    files.replace(path, content.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """The state that `save_state` wrote, on the CPU; ValueError naming the file if it is not such a state."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file can raise almost anything, and must not run code
        raise ValueError(
            f"{path}: damaged, or not a checkpoint of snnconv ({type(error).__name__}); start a new run"
        ) from error
    _require_format(path, state)
    return state
