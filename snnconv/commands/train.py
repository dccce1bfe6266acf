"""Train a network with quantized activations, convert it to a spiking network, show accuracy against timesteps.

snnconv train                             a demonstration: experiment=demo
snnconv train model=vgg16 levels=8        all settings are Hydra overrides; `snnconv train --help` lists them
"""

import logging

from hydra.utils import instantiate

from snnconv.conversion.checks import check
from snnconv.conversion.demands import simulation
from snnconv.hardware.export.allowed import exports_of
from snnconv.results.report import report
from snnconv.results.summary import shown_timesteps
from snnconv.runtime.checkpoint import require_savable
from snnconv.runtime.run import Run
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.early_exit import early_exit, require_exit
from snnconv.spiking.layers import list_layers
from snnconv.spiking.measured import measured
from snnconv.spiking.simulation import Simulation
from snnconv.training.loop import fit

log = logging.getLogger(__name__)


def main(run: Run) -> None:
    """Run everything from data to report."""
    cfg = run.cfg
    with run.timed("data"):
        data = instantiate(cfg.data)  # Splits: train, valid, calibration, test
    task = instantiate(cfg.task).prepared(data.train.labels)  # loss, score and metrics
    require_exit(Simulation.of(cfg.simulate), task, valid=data.valid.count)
    ann = instantiate(cfg.model)  # a network with quantized activations
    calibrate = instantiate(cfg.calibration)  # computes thresholds that the weights do not have
    convert = instantiate(cfg.method)  # one of snnconv/conversion/methods/*.py
    encoder = instantiate(cfg.encoder)  # input of every step
    weights = instantiate(cfg.weights)  # number of bits of the weights
    settings = instantiate(cfg.fit, compile=cfg.compile, precision=cfg.precision)
    explain = instantiate(cfg.explain)  # errors by layer, advice, energy

    with run.timed("check"):
        calibrate(ann, data.calibration)
        # errors of conversion are raised now, not after hours of training
        classes = cfg.data.num_classes if task.name == "classify" else None
        demands = simulation(cfg.timesteps), lambda snn, _: require_exit(snn.simulation, task, snn.timing)
        check(
            ann, convert, data.calibration, classes=classes, encoder=encoder, weights=weights, demands=demands
        ).require()
        task.try_out(ann, data.calibration)
        require_savable(ann)
    fit(ann, data.train, data.selecting(settings.select), settings, run, weights, task)  # 1. train
    if cfg.resume and "data" in cfg.method:
        log.info("method=%s: its training starts again, because it cannot be resumed", cfg.names.method)
    ann = weights(ann)
    with run.timed("convert"):
        snn = (
            weights.convert(convert, ann, data.calibration).for_task(task).encoded(encoder, data.calibration)
        )  # 2. convert
    curve = accuracy_over_time(snn, data.test, cfg.timesteps)  # 3. evaluate

    early = early_exit(snn, data.valid, data.test, max(curve.correct))

    with run.timed("explain"):
        why = explain(ann, snn, data, shown_timesteps(list(curve.correct)))

    exports = exports_of(ann, snn, data.calibration) if why else None
    layers = list_layers(snn, data.test, max(curve.correct))
    report(run, snn, curve, measured(ann, data.test, task), early, why, exports=exports, layers=layers)
