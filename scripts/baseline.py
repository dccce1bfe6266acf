"""A trained network in small whole numbers, without spikes: what a spiking one has to be compared with.

python scripts/baseline.py run=runs/… baseline=ptq_static baseline.activation_bits=4      others: ptq_dynamic, qat (conf/baseline/)
python scripts/baseline.py run=runs/… baseline=ptq_static,qat baseline.weight_bits=8,4,2  each in turn

Results: runs/…/evaluations/<baseline>/<date_time>/baseline.json, which leaderboards and later reports show.
"""

import sys

import hydra
import rich
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from snnconv.results.summary import method_settings
from snnconv.runtime import distributed, environment, files
from snnconv.runtime.checkpoint import load_ann
from snnconv.runtime.multirun import as_sweep
from snnconv.runtime.run import open_run
from snnconv.spiking.accuracy import accuracy


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """One quantized network."""
    with open_run(cfg) as run:
        cfg = run.cfg
        quantize = instantiate(cfg.baseline)
        from snnconv.hardware.baselines.cost import RULE, energy, size  # after the message that torchao is missing

        tables = instantiate(cfg.costs, _convert_="object")
        ann = load_ann(cfg.run, trust=cfg.trust).to(run.device)
        data = instantiate(cfg.data)
        with run.timed("convert"):
            quantized = quantize(ann, data)
        with run.timed("evaluate"):
            reached = accuracy(quantized.network, data.test)
        found = {
            "baseline": HydraConfig.get().runtime.choices["baseline"],
            "settings": method_settings(OmegaConf.to_container(cfg.baseline, resolve=True)),  # type: ignore[arg-type]
            "calibration_images": cfg.data.get("calibration"),
            "accuracy": reached,
            "ann_accuracy": accuracy(ann, data.test),
            "weight_bits": quantized.how.weight_bits,
            "activation_bits": quantized.how.activation_bits,
            **size(ann, quantized),
            **energy(ann, quantized, cfg.data.input_shape, tables),
            "energy_rule": RULE,
            "images_tested": data.test.count,
            "network": run.network(),
            "levels": cfg.levels,
            "select": cfg.fit.select,
            "model": cfg.names.model,
            "data": cfg.names.data,
            "seed": cfg.seed,
            "device": str(run.device),
            "precision": cfg.precision,
            "wall_seconds": {stage: round(seconds, 3) for stage, seconds in run.seconds.items()},
            "versions": {**environment.versions(), "torchao": environment.version("torchao")},
            "commit": environment.commit(),
            "command": environment.command(),
        }
        if distributed.is_main():
            files.write_json(run.folder / "baseline.json", found)
            show(found)


def show(found: dict) -> None:
    """The result in two lines."""
    console, gained = rich.get_console(), 100 * (found["accuracy"] - found["ann_accuracy"])
    console.print(
        f"{found['baseline']}, weights of {found['weight_bits']} bits, activations of {found['activation_bits']}: "
        f"{100 * found['accuracy']:.2f} % ({gained:+.2f} to the ANN's {100 * found['ann_accuracy']:.2f} %), "
        f"{found['images_tested']} test images", highlight=False, soft_wrap=True,
    )  # fmt: skip
    prices = [f"{pj / 1e6:.4g} µJ ({name})" for name, pj in (found["energy"] or {}).items()]
    console.print(f"{found['size_bytes'] / 1024:.1f} KiB (float32: {found['float_bytes'] / 1024:.1f}); an image, estimated: "
                  f"{', '.join(prices) or 'not counted'}", highlight=False, soft_wrap=True)  # fmt: skip


if __name__ == "__main__":
    sys.argv = as_sweep(sys.argv)
    main()
