"""Show the conversion of each layer of a network, and each obstacle; needs no data and writes nothing.

snnconv check model=resnet20 method=srp                           a network as built by train
snnconv check model=custom model.path=my_net.py model.name=MyNet model.weights=my_net.pt      your own network
snnconv check run=runs/… method=st_bif                            a trained network
snnconv check model=vgg16 export=nir                              also check whether it can be exported

Exit status 0: it can be converted; 1: it cannot.
"""

import copy
from dataclasses import replace

import rich
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from torch import nn

from snnconv.conversion.checks import check
from snnconv.conversion.demands import Demand, simulation
from snnconv.hardware.export.allowed import allowing
from snnconv.nn.graph.kinds import is_activation
from snnconv.runtime.checkpoint import require_savable
from snnconv.runtime.run import Run
from snnconv.spiking.early_exit import require_exit


def main(run: Run) -> None:
    """Check one network for one method."""
    cfg = run.cfg
    ann = run.load_ann() if cfg.run else instantiate(cfg.model)
    require_savable(ann)
    noise = torch.randn(4, *cfg.data.input_shape)
    classes = cfg.data.num_classes if instantiate(cfg.task).name == "classify" else None
    result = check(ann, instantiate(cfg.method), [(noise, torch.zeros(4).long())], calibrates=not cfg.run,
                   calibration=cfg.data.get("calibration"), classes=classes, encoder=instantiate(cfg.encoder),
                   demands=_demands(run, ann))  # fmt: skip
    replace(result, method=cfg.names.method).show(rich.get_console())
    raise SystemExit(bool(result.obstacles))


def _demands(run: Run, ann: nn.Module) -> list[Demand]:
    """Steps of a run that follow its training, and the export that is asked for."""
    cfg, hydra = run.cfg, HydraConfig.get()
    task, valid = instantiate(cfg.task), int(cfg.data.get("valid") != 0)
    demands: list[Demand] = [
        simulation(cfg.timesteps),
        lambda snn, _: require_exit(snn.simulation, task, snn.timing, valid),
    ]
    if any(text.lstrip("+").startswith(("export=", "export.")) for text in hydra.overrides.task):
        ann = copy.deepcopy(ann)
        for module in ann.modules():
            if is_activation(module) and module.threshold.isnan().any():  # type: ignore[union-attr, operator]
                module.set_threshold(1.0)  # type: ignore[operator]  # calibration comes later
        demands.append(allowing(hydra.runtime.choices["export"], ann))
    return demands
