"""Settings of a data set that are computed from its files: at the start of a run they are shown, and stored with the run."""

import logging
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from snnconv.runtime import distributed, files
from snnconv.runtime.trust import require_trusted

log = logging.getLogger(__name__)
FOUND = ("num_classes", "input_shape", "mean", "std")  # where one of these is null, the files are read


def complete(cfg: DictConfig, folder: Path) -> None:
    """Compute the settings of `cfg.data` that are null from its files; store them in the configuration of the run in `folder`.

    The attribute `find` of a data set's function computes them (`snnconv.data.facts`).  Later evaluations use the stored numbers,
    even if the files have changed.
    """
    settings: Any = OmegaConf.to_container(cfg.data, resolve=True)
    if all(settings.get(name) is not None for name in FOUND):
        return
    if cfg.resume or cfg.run:
        require_trusted({"data": settings}, cfg.trust)
    find = getattr(get_method(settings.pop("_target_")), "find", None)
    if find is None:
        return
    facts = {key: value for key, value in find(**settings).items() if settings.get(key) is None and key in settings}
    with open_dict(cfg):
        cfg.data.update(facts)
    log.info("data: %s", ", ".join(f"{key} {_shown(value)}" for key, value in facts.items()))
    path = folder / ".hydra" / "config.yaml"
    if distributed.is_main() and path.is_file():
        try:
            stored = OmegaConf.load(path)
        except (OmegaConfBaseException, OSError):  # its error is raised where it is read
            return
        stored.data.update(facts)
        files.write_text(path, OmegaConf.to_yaml(stored))


def _shown(value: Any) -> str:
    """A value as short text."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value[:8]))}{f', … ({len(value)})' if len(value) > 8 else ''}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


MEAN_OVER_TIME = "snnconv.nn.models.over_time.mean_over_time"


def read_frames(cfg: DictConfig) -> None:
    """For data that are frames, let the model receive their mean over time, of the shape of one frame.

    `cfg` must not contain interpolations.
    """
    if not cfg.data.get("frames") or cfg.model["_target_"] == MEAN_OVER_TIME:
        return
    model, shape = cfg.model, cfg.data.input_shape
    with open_dict(cfg):
        if "input_shape" in model:
            model.input_shape = shape[1:]
        cfg.model = {"_target_": MEAN_OVER_TIME, "model": model, "input_shape": shape}
