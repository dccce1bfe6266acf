"""Quantize a trained network without spikes, as a baseline for the spiking network.

snnconv baseline run=runs/… baseline=ptq_static baseline.activation_bits=4      others: ptq_dynamic, qat (conf/baseline/)
snnconv baseline run=runs/… baseline=ptq_static,qat baseline.weight_bits=8,4,2  one after the other

Results: runs/…/evaluations/<baseline>/<date_time>/baseline.json; leaderboards and later reports show them.
"""

from typing import Any

import rich
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from snnconv.results.records import Baseline
from snnconv.results.summary import method_settings, shown, task_facts
from snnconv.runtime import distributed, environment, files
from snnconv.runtime.run import Run
from snnconv.spiking.measured import measured


def main(run: Run) -> None:
    """Quantize one network and evaluate it."""
    cfg = run.cfg
    quantize = instantiate(cfg.baseline)
    from snnconv.hardware.baselines.cost import RULE, energy, size  # after the message that torchao is missing

    tables = instantiate(cfg.costs, _convert_="object")
    ann = run.load_ann()
    data = instantiate(cfg.data)
    task = instantiate(cfg.task).prepared(data.train.labels)
    task.try_out(ann, data.calibration)
    with run.timed("convert"):
        quantized = quantize(ann, data, task)
    with run.timed("evaluate"):
        reached = measured(quantized.network, data.test, task)
    before = measured(ann, data.test, task)
    shape = cfg.data.input_shape
    costs: dict[str, Any] = {**size(ann, quantized, shape), **energy(ann, quantized, shape, tables)}
    from_torchao = {"torchao": environment.version("torchao")}
    provenance = environment.provenance(cfg.seed, run.device, cfg.precision)
    result = Baseline(
        **provenance | {"versions": provenance["versions"] | from_torchao},
        baseline=HydraConfig.get().runtime.choices["baseline"],
        settings=method_settings(OmegaConf.to_container(cfg.baseline, resolve=True)),  # type: ignore[arg-type]
        calibration_images=cfg.data.get("calibration"),
        accuracy=reached.accuracy,
        ann_accuracy=before.accuracy,
        **task_facts(task, quantized=reached.metrics, ann=before.metrics),
        weight_bits=quantized.settings.weight_bits,
        activation_bits=quantized.settings.activation_bits,
        **costs,
        energy_rule=RULE,
        images_tested=data.test.count,
        network=run.network(),
        levels=cfg.levels,
        select=cfg.fit.select,
        model=cfg.names.model,
        data=cfg.names.data,
        wall_seconds={stage: round(seconds, 3) for stage, seconds in run.seconds.items()},
    )
    if distributed.is_main():
        files.write_json(run.folder / "baseline.json", result.as_dict())
        show(result)


def show(result: Baseline) -> None:
    """Print the result in two lines."""
    console, gained = rich.get_console(), 100 * (result.accuracy - result.ann_accuracy)
    score = f"{result.score} " if result.score else ""
    metrics = "".join(
        f"{name} {shown(each['quantized'], each['percent'])} (ANN {shown(each['ann'], each['percent'])}), "
        for name, each in result.metrics.items()
    )
    console.print(
        f"{result.baseline}, weights of {result.weight_bits} bits, activations of {result.activation_bits}: "
        f"{score}{100 * result.accuracy:.2f} % ({gained:+.2f} from the ANN's {100 * result.ann_accuracy:.2f} %), {metrics}"
        f"{result.images_tested} test images", highlight=False, soft_wrap=True,
    )  # fmt: skip
    prices = [f"{pj / 1e6:.4g} µJ ({name})" for name, pj in (result.energy or {}).items()]
    console.print(f"{result.size_bytes / 1024:.1f} KiB (float32: {(result.float_bytes or 0) / 1024:.1f}); estimated, one image: "
                  f"{', '.join(prices) or 'not counted'}", highlight=False, soft_wrap=True)  # fmt: skip
