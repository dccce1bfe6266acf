"""Time and memory of quantized training and spiking simulation, as ratios to plain baselines measured in one process.

python scripts/benchmark.py [--quick] [--json FILE] [--only training,simulation,…] [--models resnet18,vgg16]
python scripts/benchmark.py --peers digits,cifar10 --weights resnet20-12fca82f.th --json experiments/peers/peers.jsonl
                                        other tools on the same trained network and images (needs the extra `peers`)

The variants of a group run in turns, round after round; a figure is the median over the rounds, with the extremes beside it,
and a ratio is the median of the ratios round by round.  Memory is the peak of tensors allocated by one call (on
CUDA: by the allocator), without workspaces inside kernels and without tensors that exist before the call.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks import groups
from benchmarks.peer_program import NETWORKS, compare_tools
from benchmarks.subjects import MODELS
from benchmarks.timing import DEVICE, Report
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from snnconv.runtime import allocator, environment, files

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS: dict[str, Callable] = {
    "training": groups.training,
    "simulation": groups.simulated,
    "testset": groups.over_a_test_set,
    "curve": groups.curve,
    "conversion": groups.converted,
    "explanation": groups.explained,
    "scaling": groups.scaling,  # once, of the first model
}
DEFAULT = "training,simulation,curve,conversion,explanation,scaling"


def main() -> None:
    """Run the groups that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network and few rounds: does everything run?")
    parser.add_argument("--json", type=Path, help="also write the figures, with versions and commit, to this file")
    parser.add_argument("--only", type=partial(names, GROUPS), default=DEFAULT, help=f"some of {', '.join(GROUPS)}")
    parser.add_argument(
        "--models", type=partial(names, MODELS), default="resnet18,vgg16", help=f"some of {', '.join(MODELS)}"
    )
    parser.add_argument("--batch", type=int, help="images in a batch (default: 32, with --peers 100)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--allocator",
        choices=("kept", "system"),
        default="kept",
        help="freed memory: kept, as in all commands | glibc's own",
    )
    parser.add_argument(
        "--peers", type=partial(names, NETWORKS), help=f"compare tools on some of {', '.join(NETWORKS)}"
    )
    parser.add_argument("--weights", type=Path, help="weights of the ResNet-20 for --peers cifar10")
    parser.add_argument(
        "--tools", default="", help="with --peers: only tools whose names begin so, separated by commas"
    )
    parser.add_argument(
        "--conversions", type=int, default=3, help="with --peers: conversions of each tool (default: 3)"
    )
    parser.add_argument("--timesteps", type=int, nargs="+", default=[8, 32], help="T of --peers (default: 8 32)")
    parser.add_argument("--images", type=int, default=300, help="test images of --peers (default: 300)")
    options = parser.parse_args()
    kept = options.allocator == "kept" and allocator.keep_freed_memory()
    if options.peers:
        compare_tools(options, facts())
        return
    models, plan = options.models, groups.Plan(options.batch or 32, options.rounds, methods=methods)
    if options.quick:
        models, plan = ["mlp"], groups.Plan(batch=64, rounds=2, quick=True, methods=methods)
    about, report, wanted = facts(), Report(), [name for name in GROUPS if name in options.only]
    todo = [(model, name) for model in models for name in wanted if name != "scaling"]
    for model, name in [*todo, *((models[0], name) for name in wanted if name == "scaling")]:
        GROUPS[name](report, model, plan)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(options.json, {**about, "freed_memory_kept": kept, "rows": report.rows})


def names(choices: Iterable[str], text: str) -> list[str]:
    """The parts of a list with commas; an error of the command line unless all are among `choices`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if strange := [part for part in parts if part not in choices]:
        raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(choices)}")
    return parts


def methods(timesteps: int) -> dict[str, Any]:
    """Every method of conf/method for T steps, without `finetune`, which trains."""
    stems = sorted(file.stem for file in (CONF / "method").glob("*.yaml") if file.stem != "finetune")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {
            stem: instantiate(compose("config", [f"method={stem}", f"timesteps={timesteps}"]).method) for stem in stems
        }


def facts() -> dict[str, Any]:
    """Origin of the figures."""
    cuda = DEVICE == "cuda"
    return {
        **environment.provenance(0, torch.cuda.get_device_name() if cuda else DEVICE, "float32"),
        "convolutions_in_tf32": cuda and torch.backends.cudnn.allow_tf32,  # torch's default; float32 rows
    }


if __name__ == "__main__":
    main()
