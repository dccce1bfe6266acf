"""Show the conversion of each layer of a network, and each obstacle; needs no data and writes nothing.

snnconv check model=resnet20 method=srp                           a network as built by train
snnconv check model=custom model.path=my_net.py model.name=MyNet model.weights=my_net.pt      your own network
snnconv check run=runs/… method=st_bif                            a trained network
snnconv check model=vgg16 export=onnx export.opset=13             also rehearse this export (weights=…, integer=…: likewise)

Exit status 0: it can be converted; 1: it cannot.
"""

import copy
import re
from dataclasses import replace

import rich
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from snnconv.conversion.checks import check
from snnconv.conversion.demands import Demand, simulation
from snnconv.data.splits import require_selection
from snnconv.hardware.rehearsal import exporting, integers, untrained
from snnconv.nn.graph.kinds import is_activation
from snnconv.runtime import launch
from snnconv.runtime.checkpoint import require_savable
from snnconv.runtime.run import Run
from snnconv.spiking.early_exit import require_exit
from snnconv.spiking.tasks import Task
from snnconv.training.distillation import require_teacher


def main(run: Run) -> None:
    """Check one network for one method."""
    cfg = run.cfg
    _require_settings(cfg)
    ann = run.load_ann() if cfg.run else instantiate(cfg.model)
    require_savable(ann)
    noise = torch.randn(4, *cfg.data.input_shape)
    classes = cfg.data.num_classes if instantiate(cfg.task).name == "classify" else None
    result = check(ann, instantiate(cfg.method), [(noise, torch.zeros(4).long())], calibrates=not cfg.run,
                   calibration=cfg.data.get("calibration"), classes=classes, encoder=instantiate(cfg.encoder),
                   weights=instantiate(cfg.weights), demands=_demands(run, ann))  # fmt: skip
    replace(result, method=cfg.names.method).show(rich.get_console())
    raise SystemExit(bool(result.obstacles))


def _require_settings(cfg: DictConfig) -> None:
    """ValueError for settings of the training and of the report that are out of range."""
    instantiate(cfg.explain)
    if cfg.data.get("calibration") == 0:
        raise ValueError("data.calibration=0: must be at least 1, because conversion is tried on calibration images")
    if cfg.task.targets == "numbers" and cfg.data["_target_"].startswith("snnconv.data.") and "targets" not in cfg.data:
        raise ValueError(f"targets of data={cfg.names.data} are classes, integers [N], and this task needs numbers; choose "
                         "task=classify, or data=arrays or data=table")  # fmt: skip
    if cfg.run:
        return
    settings = instantiate(cfg.fit, compile=cfg.compile, precision=cfg.precision)
    require_selection(settings.select, int(cfg.data.get("valid") != 0))
    if settings.teacher:
        require_teacher(settings.teacher)


def _demands(run: Run, ann: nn.Module) -> list[Demand]:
    """Steps of a run that follow its training, and the export or the integer network that is asked for."""
    cfg = run.cfg
    task, valid = instantiate(cfg.task), int(cfg.data.get("valid") != 0)
    demands: list[Demand] = [
        simulation(cfg.timesteps),
        lambda _, images: _try_out(task, _with_thresholds(ann), images),
        lambda snn, _: require_exit(snn.simulation, task, snn.timing, valid),
    ]
    return [*demands, *_of_hardware(cfg, ann)]


@torch.no_grad()
def _try_out(task: Task, ann: nn.Module, images: Tensor) -> None:
    """ValueError if metrics do not fit the task; the targets are predictions."""
    outputs = ann.eval()(images)
    try:
        predictions = task.decide(outputs)
    except IndexError as error:  # of maps, which these outputs are not
        raise ValueError(
            f"task={task.name}: the network returns {list(outputs.shape)}, and targets are {task.expects}; choose another "
            "model (task=dense: model=unet), or another task"
        ) from error
    task.try_out(ann, [(images, predictions.to(outputs.dtype) if task.targets == "numbers" else predictions)])


def _of_hardware(cfg: DictConfig, ann: nn.Module) -> list[Demand]:
    """The export and the integer network that the command line asks for, with their settings."""
    demands = list[Demand]()
    asked = {re.split(r"[=.]", text.lstrip("+"))[0] for text in launch.typed()} & {"export", "integer"}
    if asked and cfg.precision == "tf32":
        raise ValueError("precision=tf32: rounds, but spikes are compared exactly; use precision=float32")
    final = cfg.run and any(is_activation(module) for module in ann.modules())  # weights and thresholds are trained
    if "export" in asked:
        ann = instantiate(cfg.weights)(_with_thresholds(ann))
        demands.append(exporting(HydraConfig.get().runtime.choices["export"], instantiate(cfg.export), ann))
    if "integer" in asked:
        demands.append(integers(cfg.timesteps, dict(cfg.integer)))
    return demands if final else [untrained(demand) for demand in demands]


def _with_thresholds(ann: nn.Module) -> nn.Module:
    """A copy of `ann` in which thresholds that calibration will compute are 1."""
    ann = copy.deepcopy(ann)
    for module in ann.modules():
        if is_activation(module) and module.threshold.isnan().any():  # type: ignore[union-attr, operator]
            module.set_threshold(1.0)  # type: ignore[operator]
    return ann
