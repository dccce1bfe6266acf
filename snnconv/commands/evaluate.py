"""Convert a trained network again and evaluate it, without training.

snnconv evaluate run=runs/… method=qcfs timesteps=64      results: runs/…/evaluations/<method>/<date_time>/
snnconv evaluate run=runs/… method=qcfs,srp,cos timesteps=[1,2,4,8]      one after the other, with a summary; also for several runs
snnconv evaluate run=runs/… sweep=methods_qcfs            the methods in conf/sweep/methods_qcfs.yaml
"""

from hydra.utils import instantiate

from snnconv.hardware.export.allowed import exports_of
from snnconv.results.report import report
from snnconv.results.summary import shown_timesteps
from snnconv.runtime.run import Run
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.early_exit import early_exit, require_exit
from snnconv.spiking.layers import list_layers
from snnconv.spiking.measured import measured
from snnconv.spiking.simulation import Simulation


def main(run: Run) -> None:
    """Convert and evaluate the network of `run` once."""
    cfg = run.cfg
    weights = instantiate(cfg.weights)
    ann = weights(run.load_ann())
    with run.timed("data"):
        data = instantiate(cfg.data)
    task = instantiate(cfg.task).prepared(data.train.labels)
    task.try_out(ann, data.calibration)
    require_exit(Simulation.of(cfg.simulate), task, valid=data.valid.count)
    convert = instantiate(cfg.method)
    explain = instantiate(cfg.explain)

    with run.timed("convert"):
        snn = weights.convert(convert, ann, data.calibration).for_task(task)
        snn = snn.encoded(instantiate(cfg.encoder), data.calibration)
    curve = accuracy_over_time(snn, data.test, cfg.timesteps)

    early = early_exit(snn, data.valid, data.test, max(curve.correct))

    with run.timed("explain"):
        why = explain(ann, snn, data, shown_timesteps(list(curve.correct)))

    exports = exports_of(ann, snn, data.calibration) if why else None
    layers = list_layers(snn, data.test, max(curve.correct))
    report(run, snn, curve, measured(ann, data.test, task), early, why, exports=exports, layers=layers)
