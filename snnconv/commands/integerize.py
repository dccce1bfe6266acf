"""Convert a trained network to an integer spiking network; reports its accuracy, widths of membranes and memory.

snnconv integerize run=runs/… method=qcfs 'timesteps=[4,8,16,32]'           int8 weights, one scale for each channel
snnconv integerize run=runs/… integer=int4 integer.membrane_bits=16         other options are in conf/integer/

Results: runs/…/evaluations/<method>/<date_time>/integer.json.  On `integer.golden` images every spike and logit is compared with
the golden model (NumPy); a difference is an error.
"""

from collections.abc import Iterable
from typing import Any

import rich
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.table import Table

from snnconv.hardware.integer.golden import verified
from snnconv.hardware.integer.network import IntegerNetwork, in_real_units
from snnconv.hardware.integer.program import program_of
from snnconv.hardware.integer.ranges import bits_bound, described
from snnconv.hardware.integer.sensitivity import settle_layers
from snnconv.results.records import IntegerResult
from snnconv.results.summary import stored_weights, task_facts
from snnconv.runtime import distributed, environment, files
from snnconv.runtime.run import Run
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.curve import Curve
from snnconv.spiking.simulation import wanted_timesteps


def main(run: Run) -> None:
    """Convert one network to integers and evaluate it."""
    cfg = run.cfg
    if cfg.precision == "tf32":
        raise ValueError("precision=tf32: would round integers above 2^11; use precision=float32")
    ann = run.load_ann()
    data = instantiate(cfg.data)
    task = instantiate(cfg.task).prepared(data.train.labels)
    task.try_out(ann, data.calibration)
    weights = instantiate(cfg.weights)
    snn = weights.convert(instantiate(cfg.method), weights(ann), data.calibration).for_task(task)
    snn = snn.encoded(instantiate(cfg.encoder), data.calibration)
    settle_layers(cfg.integer, ann, data.calibration)
    settings: Any = OmegaConf.to_container(cfg.integer, resolve=True)
    golden, beside_float = settings.pop("golden"), settings.pop("beside_float", True)
    settings.pop("average_bits", None)
    network, compared = verified(snn, data.calibration, data.test, cfg.timesteps, golden, **settings)

    curves = {
        name: accuracy_over_time(model, data.test, cfg.timesteps)
        for name, model in (("float", snn), ("integer", in_real_units(network)))
        if beside_float or name == "integer"
    }
    network.require_exact()
    result = IntegerResult(
        **environment.provenance(cfg.seed, run.device, cfg.precision),
        accuracy={name: {str(t): value for t, value in curve.accuracy.items()} for name, curve in curves.items()},
        images_tested=curves["integer"].images,
        golden={"images": compared, "differing_spikes": 0},
        **(_bounds(network, data.test, cfg.timesteps) if compared else {}),
        **network.summary(),
        **task_facts(task, **{name: _metrics(curve) for name, curve in curves.items()}),
        integer={key: value for key, value in settings.items() if key != "layers" or value},
        network=run.network(),
        weights=stored_weights(cfg),
        model=cfg.names.model,
        data=cfg.names.data,
        levels=cfg.levels,
        method=cfg.names.method,
    )
    if distributed.is_main():
        files.write_json(run.folder / "integer.json", result.as_dict())
        show(result)


def _metrics(curve: Curve) -> dict[str, dict[str, float]]:
    """Values of the metrics by name and T."""
    return {name: {str(t): value for t, value in values.items()} for name, values in curve.metrics.items()}


def _bounds(network: IntegerNetwork, batches: Iterable, timesteps: Any) -> dict[str, Any]:
    """Numbers of bits of membranes and currents that are sufficient for every image of this shape."""
    images, _ = next(iter(batches))
    return bits_bound(program_of(network, images.shape[1:]), max(wanted_timesteps(timesteps)))


def show(result: IntegerResult) -> None:
    """Print accuracies and sizes of the network."""
    table = Table("T", "float", "integer", "difference", title=result.score)
    for t, value in result.accuracy["integer"].items():
        before = result.accuracy.get("float", {}).get(t)
        cells = ("–", "–") if before is None else (f"{100 * before:.2f} %", f"{100 * (value - before):+.2f}")
        table.add_row(t, cells[0], f"{100 * value:.2f} %", cells[1])
    rich.get_console().print(table)
    rich.get_console().print(
        f"{result.weight_bytes / 1024:.1f} KiB of weights, biases, multipliers and thresholds (float32: "
        f"{result.float_bytes / 1024:.1f}); {_widths(result)}; golden model: "
        f"{result.golden['differing_spikes']} differing spikes on {result.golden['images']} images",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _widths(result: IntegerResult) -> str:
    """Widths of membranes, and those that no image can exceed, as text."""
    if result.membrane_bits_bound and result.current_bits_bound:
        return described(result.membrane_bits, result.membrane_bits_bound, result.current_bits_bound)
    widths = result.membrane_bits.values()
    return f"membranes of {min(widths)} to {max(widths)} bits"
