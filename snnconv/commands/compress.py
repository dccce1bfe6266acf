"""Compress a trained network in stages, train and convert it after each stage, and report accuracy and size of every stage.

snnconv compress run=runs/… compress=[prune30,sparse24] 'timesteps=[4,8,16]'      in this order; other stages are in conf/compress/
snnconv compress run=runs/… compress=low_rank compress.stages.low_rank.budget=0.4 compress.fit.epochs=4

Results: runs/…/compressed/<date_time>/ladder.json, and one run folder for each stage, `1_prune30`, `2_sparse24`, which can be used
as run=… (for example for further stages).  The teacher is the original network.
With weights=… the last stage trains quantized weights; earlier stages are only evaluated with quantized weights.

snnconv compress resume=runs/…/compressed/…      continue an interrupted compression, from the last epoch of its stage
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import rich
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.table import Table
from torch import nn

from snnconv.analysis.energy import Energy
from snnconv.analysis.operations import count_operations
from snnconv.conversion.checks import check
from snnconv.conversion.demands import simulation
from snnconv.data.batches import first_images
from snnconv.data.splits import Splits
from snnconv.hardware.compression.rebuild import changes, layers_of, undone
from snnconv.hardware.compression.size import size
from snnconv.results.records import Result
from snnconv.results.report import report
from snnconv.results.summary import shown_timesteps, summarize
from snnconv.runtime import distributed, files
from snnconv.runtime.checkpoint import describe_ann
from snnconv.runtime.run import Run
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.curve import Curve
from snnconv.spiking.layers import list_layers
from snnconv.spiking.measured import Measured, measured
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.tasks import Task
from snnconv.training.distillation import require_shared_layers
from snnconv.training.loop import fit
from snnconv.training.quantized_weights import Weights
from snnconv.training.settings import Fit

log = logging.getLogger(__name__)


def main(run: Run) -> None:
    """Compress one network in all stages."""
    cfg = run.cfg
    stages = {name: instantiate(stage) for name, stage in (cfg.compress.get("stages") or {}).items()}
    if not stages:
        raise ValueError(
            "compress: no stages; choose stages of conf/compress/, for example compress=[prune30,sparse24]"
        )
    settings = instantiate(cfg.compress.fit, compile=cfg.compile, precision=cfg.precision)
    weights, convert = instantiate(cfg.weights), instantiate(cfg.method)
    if settings.keep_zeros and (stored := describe_ann(cfg.run).get("weights")):
        raise ValueError(
            f"run={cfg.run}: its weights were trained with {stored['bits']} bits, so zeros of pruning cannot be distinguished "
            "from other zeros; compress the float network with weights=…, or set compress.fit.keep_zeros=false"
        )
    cfg.data.batch_size = settings.batch_size
    data = instantiate(cfg.data)
    task = instantiate(cfg.task).prepared(data.train.labels)
    ann = run.load_ann()
    task.try_out(ann, data.calibration)
    encoder, demands = instantiate(cfg.encoder), [simulation(cfg.timesteps)]
    for name, smaller in _try_out(stages, ann, data, settings):
        try:
            check(smaller, convert, data.calibration, encoder=encoder, weights=weights, demands=demands).require()
        except ValueError as error:
            raise ValueError(f"compress: after {name}: {error}") from error
    ladder = _measured(run)
    if not ladder:
        snn, curve, reached, facts = measure(run, ann, convert, weights, data, task, [], 0)
        ladder = [summarize(cfg, snn, curve, reached, run.seconds, network=run.network(), compression=facts)]
    for number, name in enumerate(stages, 1):
        done, last = list(stages)[:number], number == len(stages)
        smaller = stages[name](ann, data.calibration)
        part_cfg = stage_config(cfg, smaller, done)
        part_cfg.weights.train = weights.train and last  # in earlier stages only pruning may set weights to 0
        with run.part(f"{number}_{name}", part_cfg) as part:
            ann = _trained(smaller, data, settings, part, task)
            if number < len(ladder):  # it was evaluated before an interruption
                continue
            snn, curve, reached, facts = measure(part, ann, convert, weights, data, task, done, settings.epochs)
            layers = list_layers(snn, data.test, max(curve.correct))
            ladder.append(report(part, snn, curve, reached, compression=facts, layers=layers))
        if distributed.is_main():
            files.write_json(run.folder / "ladder.json", [result.as_dict() for result in ladder])
    if distributed.is_main():
        show(ladder)


def _try_out(
    stages: Mapping[str, Any], teacher: nn.Module, data: Splits, settings: Fit
) -> Iterator[tuple[str, nn.Module]]:
    """The network after each stage, without training: an error of one of them is raised before the training of the first."""
    ann = teacher
    for name, stage in stages.items():
        before, ann = ann, stage(ann, data.calibration)
        if settings.distill_layers:
            try:
                require_shared_layers(ann, teacher, first_images(data.calibration, 2)[0])
            except ValueError as error:
                raise ValueError(f"compress: {name}: {error}") from error
        if lost := undone(before, ann):
            log.warning("compress: %s undoes 2:4 sparsity in %s; apply 2:4 sparsity after it", name, ", ".join(lost))
        yield name, ann


def _trained(network: nn.Module, data: Splits, settings: Fit, part: Run, task: Task) -> nn.Module:
    """`network` after the training of its stage; a resumed `part` continues where it was interrupted."""
    before = copy.deepcopy(network)
    fit(network, data.train, data.selecting(settings.select), settings, part, instantiate(part.cfg.weights), task)
    if lost := undone(before, network):
        log.warning("compress: training undid 2:4 sparsity in %s; set compress.fit.keep_zeros=true", ", ".join(lost))
    return network


def _measured(run: Run) -> list[Result]:
    """The results of an interrupted compression, starting with the original network; [] if there are none."""
    path = run.folder / "ladder.json"
    if not (run.cfg.resume and path.is_file()):
        return []
    content = files.read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: damaged, expected a list of results")
    log.info("compress: %d of %d stages are done", len(content) - 1, len(run.cfg.compress.stages))
    return [Result.from_dict(each, str(path)) for each in content]


def stage_config(cfg: DictConfig, network: nn.Module, stages: list[str]) -> DictConfig:
    """The configuration from which a stage can be rebuilt: that of the run, with the changed layers."""
    model = describe_ann(cfg.run)["config"]["model"]
    plain, before = layers_of(model)
    config: Any = OmegaConf.create(OmegaConf.to_container(cfg))
    with open_dict(config):
        layers = {**before, **changes(instantiate(plain), network)}
        paths = {path for path, _ in network.named_modules()}
        present = {path: layer for path, layer in layers.items() if path in paths}
        config.model = {"_target_": "snnconv.hardware.compression.rebuild.rebuilt", "model": plain, "layers": present}
        config.fit, config.run, config.resume = cfg.compress.fit, None, None
        config.compress.stages = {name: cfg.compress.stages[name] for name in stages}
    return config


def measure(
    run: Run, ann: nn.Module, convert: Any, weights: Weights, data: Splits, task: Task, stages: list[str], epochs: int
) -> tuple[SpikingModel, Curve, Measured, dict[str, Any]]:
    """`ann` converted to a spiking network, its curve, the accuracy of `ann`, and the facts for `Result.compression`.

    `epochs` are the numbers of epochs of training after each of `stages`.
    """
    ann = weights(ann)
    with run.timed("convert"):
        snn = weights.convert(convert, ann, data.calibration).for_task(task)
        snn = snn.encoded(instantiate(run.cfg.encoder), data.calibration)
    curve = accuracy_over_time(snn, data.test, run.cfg.timesteps)
    facts = {"stages": stages, "epochs": epochs, **size(ann, weights), **costs(run.cfg, snn, data, list(curve.correct))}
    return snn, curve, measured(ann, data.test, task), facts


def costs(cfg: DictConfig, snn: SpikingModel, data: Splits, timesteps: list[int]) -> dict[str, Any]:
    """Operations and energy for one image, without weights that are 0; counted on calibration images."""
    images = copy.copy(data.calibration)
    images.everywhere = False  # each process uses its share
    counted = count_operations(snn, images, shown_timesteps(timesteps), images=cfg.compress.images, zeros=False)
    energy = Energy(counted, instantiate(cfg.costs, _convert_="all")).as_dict()
    keys = ("ann", "quantized", "snn")
    return {
        "macs": sum(target.macs for target in counted.targets),
        "accumulates": {str(t): sum(layers.values()) for t, layers in counted.accumulates.items()},
        "energy": {name: {key: table[key] for key in keys} for name, table in energy["tables"].items()},
    }


def show(ladder: list[Result]) -> None:
    """Print one line for each stage."""
    shown = shown_timesteps(list(ladder[0].snn_accuracy))
    columns = "after", "ANN", *[f"T={t}" for t in shown], "weights ≠ 0", "KiB", "ANN, M ops", f"SNN, T={shown[-1]}"
    table = Table(
        *columns,
        caption=f"{ladder[0].score or 'accuracy'} in percent; "
        "millions of operations for one image: MACs of the ANN, accumulates of the SNN",
    )
    for result in ladder:
        facts = result.compression or {}
        table.add_row(
            " ".join(facts["stages"][-1:]) or "–",
            f"{100 * result.ann_accuracy:.2f}",
            *[f"{100 * result.snn_accuracy[t]:.2f}" for t in shown],
            f"{facts['nonzero']:,}",
            f"{facts['bits'] / 8192:.1f}",
            f"{facts['macs'] / 1e6:.2f}",
            f"{facts['accumulates'][str(shown[-1])] / 1e6:.2f}",
        )
    rich.get_console().print(table)
