"""The recipe of a network: a hash of the settings on which its training depends."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from snnconv.runtime import (
    checkpoint,
    moved_names,
    user_files,
)


def recipe(cfg: DictConfig) -> str | None:
    """A short hash of the settings of a training, without its seed and without paths; None if nothing is trained."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    if not plain["fit"]["epochs"]:
        return None
    of_the_place = ("weights", "root", "device", "workers", "seed", "save_every", "tune", "tune_precision")
    later = (
        "distill_layers",
        "keep_zeros",
        "dirac_init",
        "norm_bias_lr",
        "lookahead",
    )  # settings that older runs did not have
    plain["model"] = user_files.mapped(plain["model"], lambda path: Path(path).name)  # also inside a compressed network
    settings = {
        part: {key: Path(value).name if isinstance(value, str) else value  # files may lie elsewhere
               for key, value in plain[part].items()
               if key not in of_the_place and not (key in later and not value) and (key, value) != ("optimizer", "sgd")}
        for part in ("model", "data", "fit", "calibration")
    }  # fmt: skip
    if plain["weights"]["bits"] is not None and plain["weights"]["train"]:
        layers = plain["weights"].pop("layers", None)
        settings["weights"] = plain["weights"]
        if layers:  # in order: the first pattern that matches counts
            settings["weights"]["layers"] = [[str(pattern), bits] for pattern, bits in layers.items()]
    not_learned = ("metrics", "readout", *([] if plain.get("task", {}).get("label_weights") else ["label_weights"]))
    task = {key: value for key, value in plain.get("task", {}).items() if key not in not_learned}
    if not task.get("_target_", ".Classify").endswith(".Classify") or task.get("class_weights"):
        settings["task"] = task
    if plain["compress"].get("stages"):
        settings["compress"] = plain["compress"]["stages"]
        if teacher := plain["fit"].get("teacher"):  # one for each seed
            settings["fit"]["teacher"] = checkpoint.describe_ann(teacher).get("recipe")
    return hashlib.sha256(json.dumps(moved_names.original(settings), sort_keys=True).encode()).hexdigest()[:12]
