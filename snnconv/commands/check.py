"""Show what conversion makes of each layer of a network, and each obstacle; no data needed, nothing written.

snnconv check model=resnet20 method=srp                           as train would build it
snnconv check model=custom model.path=my_net.py model.name=MyNet model.weights=my_net.pt      yours
snnconv check run=runs/… method=st_bif                            a trained one

Exit status 0: it can be converted; 1: it cannot.
"""

from dataclasses import replace

import rich
import torch
from hydra.utils import instantiate

from snnconv.conversion.checks import check
from snnconv.runtime.run import Run


def main(run: Run) -> None:
    """One network, one method."""
    cfg = run.cfg
    ann = run.load_ann() if cfg.run else instantiate(cfg.model)
    noise = torch.randn(4, *cfg.data.input_shape)
    classes = cfg.data.num_classes if cfg.task._target_.endswith(".Classify") else None
    result = check(ann, instantiate(cfg.method), [(noise, torch.zeros(4).long())], calibrates=not cfg.run,
                   calibration=cfg.data.get("calibration"), classes=classes, encoder=instantiate(cfg.encoder))  # fmt: skip
    replace(result, method=cfg.names.method).show(rich.get_console())
    raise SystemExit(bool(result.obstacles))
