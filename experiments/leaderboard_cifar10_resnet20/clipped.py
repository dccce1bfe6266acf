"""Cost of clipping alone: test accuracy with activations cut at the largest output of a method's neurons.

python experiments/leaderboard_cifar10_resnet20/clipped.py runs/relu20 method=threshold_balancing method.iterations=1000

Run it in the root of the project, with methods whose network does not depend on T.  Nothing spikes, so it takes a minute.
`explain.images=` of scripts/evaluate.py reports the same and the other errors, on validation or calibration images.
"""

import sys
from pathlib import Path

import torch
from hydra import compose, initialize
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from snnconv.analysis.ideal_networks import Clipped, instead
from snnconv.runtime.checkpoint import load_ann
from snnconv.runtime.opening import explain
from snnconv.runtime.seed import seed_everything


@torch.no_grad()
def main(run: str, *overrides: str) -> None:
    """Print the accuracy of the ANN, and of the network that is clipped and not quantized."""
    ann = load_ann(run, trust=["examples/akamaster_resnet.py"])
    stored = OmegaConf.load(Path(run) / ".hydra" / "config.yaml")
    cfg = compose("config", overrides=[f"seed={stored.seed}", f"levels={stored.levels}", "device=cpu", *overrides])
    cfg.data, cfg.fit = stored.data, stored.fit
    seed_everything(cfg.seed)
    data = instantiate(cfg.data)
    snn = instantiate(cfg.method)(ann, data.calibration)
    if not snn.anytime or snn.for_timesteps is not None or snn.presented is not None:
        raise ValueError(f"{cfg.method._target_}: its network depends on T, and so would what is cut")
    right, images = torch.zeros(2), 0
    for x, labels in data.test:
        limited = instead(snn, lambda neuron: Clipped(neuron, snn.latency.spike_levels), x)
        right += torch.stack([(logits.argmax(1) == labels).sum() for logits in (ann(x), limited)])
        images += len(x)
    plain, cut = (f"{100 * share:.2f} %" for share in (right / images).tolist())
    sys.stdout.write(f"{' '.join([run, *overrides])}: ANN {plain}, clipped {cut}, {images} test images\n")


if __name__ == "__main__":
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "ann.json").is_file():
        sys.exit("Which run folder holds the trained network? " + __doc__.splitlines()[2])
    with initialize(version_base="1.3", config_path="../../conf"):
        try:
            main(*sys.argv[1:])
        except (ValueError, HydraException) as error:
            sys.exit(explain(error))
