"""Conversion of 23 networks of torchvision and 12 of timm: which convert, to which class, and how fast the error falls.

python experiments/any_network/study.py [NAME …]     runs the networks that networks.jsonl does not have, or those named
python experiments/any_network/study.py --table      writes the table of README.md from networks.jsonl

Weights are random, batch norms have the statistics of 8 random images, and θ is the largest value on these images, of which 1 is
simulated.  The error at T is |mean logits of the SNN − logits of the ANN| over |logits of the ANN|.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based import ann2snn, functional
from torch import Tensor, nn

import snnconv
from snnconv.nn.graph.capture import capture
from snnconv.runtime.environment import commit, versions
from snnconv.spiking.latency import latency_class
from snnconv.spiking.operators.signals import spike_driven

FOLDER = Path(__file__).parent
TORCHVISION = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "squeezenet1_1",
    "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5",
    "regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x0_5", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
TIMM = (
    "resnet50d", "regnetz_b16", "efficientnet_b0", "mobilenetv4_conv_small", "convnext_tiny", "deit_tiny_patch16_224",
    "vit_small_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224", "ghostnet_100", "repvgg_a0", "dla34",
)  # fmt: skip
SIZES = {"inception_v3": 75, "maxvit_t": 224, "alexnet": 64, "vit_b_16": 64}  # others: 32, or 64 for patches in timm
OPTIONS: dict[str, dict[str, Any]] = {
    "vit_b_16": {"image_size": 64},
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
    "timm/deit_tiny_patch16_224": {"img_size": 64},
    "timm/vit_small_patch16_224": {"img_size": 64},
    "timm/swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2},
    "timm/mixer_s16_224": {"img_size": 64},
}
METHODS = ("max_norm", "differential")
TIMESTEPS, SECONDS, LIMIT = (16, 64, 256), 100, 3600  # CPU seconds of one simulation, and seconds of all of a network


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The network called `name` (timm/… or of torchvision) in eval mode, and 8 images."""
    torch.manual_seed(0)
    source, _, leaf = name.rpartition("/")
    size = SIZES.get(leaf, 64 if "patch" in leaf or "mixer" in leaf else 32)
    if source:
        import timm

        network = timm.create_model(leaf, num_classes=10, **OPTIONS.get(name, {}))
    else:
        import torchvision

        network = getattr(torchvision.models, name)(num_classes=10, **OPTIONS.get(name, {}))
    images = torch.randn(8, 3, size, size)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():  # heads that start at zero
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        for probability in (
            "p",
            "drop_prob",
        ):  # of dropout and stochastic depth: statistics are those of the whole network
            if isinstance(getattr(module, probability, None), float):
                setattr(module, probability, 0.0)
    with torch.no_grad():
        network.train()(images)
    return network.eval(), images


def errors(steps: Iterator[Tensor], target: Tensor) -> dict[str, float]:
    """Relative error of the mean of `steps` at each T that fits in the time."""
    total, found, begin = torch.zeros_like(target, dtype=torch.float64), {}, time.process_time()
    for t, logits in enumerate(steps, 1):
        total += logits.double()
        if t in TIMESTEPS:
            found[str(t)] = ((total / t - target).norm() / target.norm()).item()
            spent = time.process_time() - begin
            if 3 * spent > SECONDS:  # the next one takes four times as long
                break
    return found


def ours(network: nn.Module, images: Tensor, method: str) -> dict[str, Any]:
    """The row of `network` converted by `method`."""
    begin = time.process_time()
    settings = {"rule": "max"} if method != "max_norm" else {}
    try:
        snn = snnconv.convert(network, images, method=method, simulation={"schedule": "step"}, **settings)
    except ValueError as error:
        return {"refused": str(error).strip().splitlines()[-1].strip()}
    seconds = time.process_time() - begin
    with torch.no_grad():
        target = network(images[:1]).double()
    latency = snn.latency
    return {
        "class": latency_class(latency.as_dict()),
        "neurons": len(snn.neurons()),
        "float_operators": latency.float_operators,
        "analog_currents": latency.analog_currents,
        "spike_driven": spike_driven(snn.network, images[:1]),
        "convert_seconds": round(seconds, 1),
        "error": errors((chunk[0] for chunk in snn.run(images[:1], TIMESTEPS[-1])), target),
    }


def spikingjelly(network: nn.Module, images: Tensor) -> dict[str, Any]:
    """The row of `network` converted by SpikingJelly's RateCodingRecipe, with thresholds at the largest value as well."""
    begin = time.process_time()
    with torch.no_grad():
        target = network(images[:1]).double()
    try:
        recipe = ann2snn.RateCodingRecipe([(images, torch.zeros(8))], mode="max")
        snn = ann2snn.FXConverter(recipe).convert(network)
        functional.reset_net(snn)
        with torch.no_grad():
            error = errors((snn(images[:1]) for _ in range(TIMESTEPS[-1])), target)
    except Exception as refusal:
        return {"refused": f"{type(refusal).__name__}: {refusal}".partition("\n")[0][:200]}
    return {"convert_seconds": round(time.process_time() - begin, 1), "error": error}


def study(name: str) -> dict[str, Any]:
    """The line of results for the network `name`."""
    warnings.simplefilter("ignore")
    network, images = build(name)
    begin = time.process_time()
    captured = capture(network, images)
    seconds = time.process_time() - begin
    line: dict[str, Any] = {
        "network": name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "image": images.shape[-1],
        "capture_seconds": round(seconds, 1),
        "methods": {method: ours(captured, images, method) for method in METHODS},
        "spikingjelly": spikingjelly(network, images),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "commit": commit(),
        "versions": versions(),
    }
    return line


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: a row for each network and method that converts it."""

    def shown(result: dict[str, Any]) -> list[str]:
        return [f"{result['error'][str(t)]:.4f}" if str(t) in result["error"] else "–" for t in TIMESTEPS]

    heads = [
        "network",
        "method",
        "class",
        "spike-driven",
        *(f"error, T = {t}" for t in TIMESTEPS),
        "capture s",
        "convert s",
    ]
    rows = [heads, ["---"] * len(heads)]
    for line in lines:
        first, capture = line["network"], str(line["capture_seconds"])
        for method, result in line["methods"].items():
            if "refused" not in result:
                driven = f"{result['spike_driven']:.1%}"
                rows.append(
                    [first, method, result["class"], driven, *shown(result), capture, str(result["convert_seconds"])]
                )
                capture = ""
                first = ""
        peer = line["spikingjelly"]
        cells = ["refused", "", *["–"] * len(TIMESTEPS)] if "refused" in peer else ["", "", *shown(peer)]
        rows.append([first, "*SpikingJelly RateCodingRecipe*", *cells, "", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(lines: list[dict[str, Any]]) -> str:
    """Counts of networks that convert."""
    kinds = {
        "torchvision": [x for x in lines if "/" not in x["network"]],
        "timm": [x for x in lines if "/" in x["network"]],
    }
    text = []
    for source, some in kinds.items():
        counts = {method: sum("refused" not in x["methods"][method] for x in some) for method in METHODS}
        counts["at least one"] = sum(any("refused" not in r for r in x["methods"].values()) for x in some)
        counts["SpikingJelly"] = sum("refused" not in x["spikingjelly"] for x in some)
        text.append(
            f"{source}, {len(some)} networks: " + ", ".join(f"{name} {count}" for name, count in counts.items()) + "."
        )
    return "\n".join(text)


def main() -> None:
    """Run networks one by one, each in a process of its own, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    results = FOLDER / "networks.jsonl"
    if arguments.one:
        print(json.dumps(study(arguments.one)))
        return
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    every = (*TORCHVISION, *(f"timm/{name}" for name in TIMM))
    if not arguments.table:
        for name in arguments.names or [n for n in every if n not in {line["network"] for line in lines}]:
            command = [sys.executable, __file__, "--one", name]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
            except subprocess.CalledProcessError as error:
                print(f"{name}: {error.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            except subprocess.TimeoutExpired:
                print(f"{name}: more than {LIMIT} s", flush=True)
                continue
            lines = [line for line in lines if line["network"] != name] + [json.loads(done.stdout.splitlines()[-1])]
            lines.sort(key=lambda line: every.index(line["network"]))
            results.write_text("".join(json.dumps(line) + "\n" for line in lines))
            print(f"{name}: done", flush=True)
    page = FOLDER / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- networks -->\n")
    _, end, after = rest.partition("<!-- end networks -->")
    text = f"{before}<!-- networks -->\n{summary(lines)}\n\n{table(lines)}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
