"""The settings that may change when a stored run is continued or evaluated again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Settings that may change when a stored run is continued; all others would change its results.
RESUMABLE = (
    "device",
    "threads",
    "data.root",
    "data.file",
    "model.path",
    "track",
    "data.workers",
    "timesteps",
    "simulate",
    "explain",
    "costs",
    "metric",
    "trust",
)


LADDER = ("device", "threads", "data.root", "data.file", "data.workers", "model.path", "track", "trust")  # of compress


HARDWARE = ("weights", "integer", "baseline", "compress", "export")  # groups of what leads to hardware


REEVALUABLE = (
    *RESUMABLE,
    *HARDWARE,
    "precision",
    "compile",
    "method",
    "operators",
    "neuron",
    "data.calibration",
    "task.readout",
    "encoder",
)


def change(stored: DictConfig, cfg: DictConfig, overrides: Sequence[str], allowed: Sequence[str], verb: str,
            as_stored: Callable[[str], bool]) -> None:  # fmt: skip
    """Copy the settings of `overrides` from `cfg`; ValueError for a setting that is neither `allowed` nor `as_stored`."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
        if key in ("resume", "run") or (key == "sweep" and not cfg.resume):  # values of a sweep are overrides as well
            continue
        if any(key == name or key.startswith(f"{name}.") for name in allowed):
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key), merge=False)
        elif not as_stored(key):
            raise ValueError(
                f"{override}: this {verb}, so only these settings may change: {', '.join(allowed)}; otherwise start a new run"
            )


def is_as_stored(
    key: str, cfg: DictConfig, chosen: Mapping[str, Any], stored: DictConfig, choices: Mapping[str, Any]
) -> bool:
    """Whether an override of `key`, a setting or a group, repeats the value with which the run was started."""
    if key in chosen:
        return chosen[key] == choices.get(key)
    missing = object()
    before, now = (OmegaConf.select(config, key, default=missing) for config in (stored, cfg))
    return before is not missing and before == now
