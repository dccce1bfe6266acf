"""Old and new names of classes and functions that were moved.

Run folders store `_target_` paths.  `current` translates old paths when a run is read, so that folders of older versions can be
loaded.  `original` translates back, because the recipe hash of a network (`runtime.recipe`) is computed from these strings and must
not change when a module is moved; otherwise every network would change its identity in leaderboards.
"""

from collections.abc import Mapping
from typing import Any

# old prefix -> new prefix, of everything that a stored configuration may name
MOVED = {
    "snnconv.activations": "snnconv.nn.activations",
    "snnconv.models": "snnconv.nn.models",
    "snnconv.custom": "snnconv.nn.models.custom",
    "snnconv.neurons": "snnconv.spiking.neurons",
    "snnconv.training.Fit": "snnconv.training.settings.Fit",
    "snnconv.quantized_weights": "snnconv.training.quantized_weights",
    "snnconv.methods": "snnconv.conversion.methods",
    "snnconv.calibration": "snnconv.conversion.calibration",
    "snnconv.calibration.largest": "snnconv.conversion.rules.largest",
    "snnconv.calibration.percentile": "snnconv.conversion.rules.percentile",
    "snnconv.calibration.least_squares": "snnconv.conversion.rules.least_squares",
    "snnconv.calibration.kullback_leibler": "snnconv.conversion.rules.kullback_leibler",
    "snnconv.costs": "snnconv.analysis.costs",
    "snnconv.explanation": "snnconv.analysis.explanation",
    "snnconv.robustness": "snnconv.analysis.robustness",
    "snnconv.compression": "snnconv.hardware.compression",
    "snnconv.compressed": "snnconv.hardware.compression.rebuild",
    "snnconv.baselines": "snnconv.hardware.baselines",
    "snnconv.exports": "snnconv.hardware.export",
    "snnconv.data.folder.imagenet": "snnconv.data.imagenet.imagenet",
    "snnconv.data.folder.tiny_imagenet": "snnconv.data.imagenet.tiny_imagenet",
    "snnconv.data.folder.transform": "snnconv.data.image_files.transform",
    "snnconv.data.signals.speech_commands": "snnconv.data.speech.speech_commands",
    "snnconv.runtime.tracking.Wandb": "snnconv.runtime.wandb_tracking.Wandb",
}
_LONGEST_FIRST = sorted(MOVED.items(), key=lambda pair: -len(pair[0]))
_BACK = sorted(((new, old) for old, new in MOVED.items()), key=lambda pair: -len(pair[0]))


def current(config: Any) -> Any:
    """A copy of nested mappings and lists in which every old `_target_` is replaced by its present name."""
    return _renamed(config, _LONGEST_FIRST)


def original(config: Any) -> Any:
    """The inverse of `current`: every `_target_` is replaced by its first name."""
    return _renamed(config, _BACK)


def _renamed(config: Any, names: list[tuple[str, str]]) -> Any:
    if isinstance(config, Mapping):
        return {
            key: _rename(value, names) if key == "_target_" and isinstance(value, str) else _renamed(value, names)
            for key, value in config.items()
        }
    return [_renamed(value, names) for value in config] if isinstance(config, list | tuple) else config


def _rename(target: str, names: list[tuple[str, str]]) -> str:
    for before, after in names:
        if f"{target}.".startswith(f"{before}."):
            return after + target[len(before) :]
    return target
