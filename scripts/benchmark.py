"""What quantized training and spiking simulation cost over plain arithmetic, as ratios measured in one process.

python scripts/benchmark.py [--quick] [--json FILE] [--only training,simulation,testset,…] [--models …]

The variants of a group run in turns, round after round; a figure is the median over the rounds, with the extremes beside it,
and a ratio is the median of the ratios round by round, so that a machine whose speed drifts bends none of them.  Memory is the
most that the tensors made by one call hold at once (on CUDA: what the allocator gave out); workspaces inside a kernel and what
lives before the call (weights, momentum) are not in it.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from spikingjelly.activation_based import base, layer, neuron
from spikingjelly.activation_based import functional as sj
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snnconv.activations.qcfs import QCFS
from snnconv.decomposition import decompose
from snnconv.folding import fold_batchnorm
from snnconv.kernels import RecomputedOutputs
from snnconv.methods import qcfs
from snnconv.models.mlp import mlp
from snnconv.models.resnet import resnet18, resnet20
from snnconv.models.vgg import vgg16
from snnconv.neurons.integrate_fire import IntegrateFire
from snnconv.operations import count_operations
from snnconv.runtime import environment
from snnconv.surgery import replace_modules

MODELS = {"resnet18": resnet18, "resnet20": resnet20, "vgg16": vgg16, "mlp": mlp}
CONF = Path(__file__).resolve().parents[1] / "conf"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Action = Callable[[], object]


class NaiveQCFS(QCFS):
    """The formula as one would write it with autograd: the baseline that published code corresponds to."""

    def forward(self, x: Tensor) -> Tensor:
        """Clamp first, then round down with the gradient passed through."""
        x = (x / self.theta).clamp(0, 1) * self.levels + 0.5
        return ((x.floor() - x).detach() + x) / self.levels * self.theta


def network(name: str, activation: Callable[[], nn.Module], width: int = 0) -> nn.Module:
    """A network for 32×32 colour images, the same weights each time; `width` is for the MLP of the scaling rows."""
    torch.manual_seed(0)
    options = {"hidden": (width, width)} if width else {}
    build: Any = MODELS[name]
    return build(10, (3, 32, 32), activation, **options).to(DEVICE)


def training_step(name: str, batch: int, kind: str) -> Action:
    """One step of SGD: kind is relu, naive or ours, plus "-compiled"."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "naive": partial(NaiveQCFS, 8, 8.0),
        "ours": partial(QCFS, 8, 8.0),
    }
    model = network(name, kinds[kind.partition("-")[0]]).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)
    run = torch.compile(model) if kind.endswith("compiled") else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if kind == "ours":
            with RecomputedOutputs():
                loss = nn.functional.cross_entropy(run(images), labels)
        else:
            loss = nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()

    return step


def simulation(name: str, batch: int, timesteps: int, kind: str) -> Action:
    """T timesteps over one batch, without gradients."""
    images = torch.randn(batch, 3, 32, 32, device=DEVICE)
    ann = network(name, partial(QCFS, 4, 2.0)).eval()
    if kind.startswith("ann"):
        plain = network(name, nn.ReLU).eval()
        if kind.startswith("ann-best"):
            plain, images = (
                fold_batchnorm(plain).to(memory_format=torch.channels_last),
                images.contiguous(memory_format=torch.channels_last),
            )
        if kind.endswith("bf16"):
            plain, images = plain.to(torch.bfloat16), images.to(torch.bfloat16)
        return torch.no_grad()(lambda: [plain(images) for _ in range(timesteps)])
    if kind.startswith("spikingjelly"):
        return torch.no_grad()(spikingjelly_as_a_user_writes_it(ann, images, timesteps, kind[-1]))
    simulate = {
        "channels_last": True,
        "fold_threshold": True,
        "event_driven": "dense" not in kind,
        "precision": "bf16" if "bf16" in kind else "float32",
        "compile": "default" if "compiled" in kind else "none",
    }
    snn = qcfs.convert(ann, [], neuron=IntegrateFire, simulate=simulate)
    return lambda: snn(images, timesteps)


def test_set(name: str, batch: int, timesteps: int, kind: str, images: int) -> Action:
    """The same over as many images as a test set has, batch after batch."""
    action = simulation(name, batch, timesteps, kind)

    def run() -> None:
        for _ in range(images // batch):
            action()

    return run


def spikingjelly_as_a_user_writes_it(ann: nn.Module, images: Tensor, timesteps: int, mode: str) -> Action:
    """SpikingJelly's layers and IFNode in place of ours, θ as a factor, batch norm left as it is."""

    class Spikes(nn.Module):
        def __init__(self, threshold: float) -> None:
            super().__init__()
            self.threshold = threshold
            self.node = neuron.IFNode(v_threshold=threshold, v_reset=None)
            self.node.set_reset_value("v", threshold / 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.node(x) * self.threshold

    net = replace_modules(ann, QCFS, lambda activation: Spikes(activation.threshold.item()))  # type: ignore[operator]
    for module in net.modules():
        kind = getattr(layer, type(module).__name__, None)
        if (
            type(module).__module__.startswith("torch.nn")
            and kind is not None
            and not issubclass(kind, base.MemoryModule)
        ):
            module.__class__ = kind  # a subclass of torch's layer that knows step modes
            module._step_mode = "s"  # type: ignore[assignment]
    sj.set_step_mode(net, mode)

    def run() -> Tensor:
        sj.reset_net(net)
        if mode == "m":
            return net(images.unsqueeze(0).repeat(timesteps, 1, 1, 1, 1)).mean(0)
        return torch.stack([net(images) for _ in range(timesteps)]).mean(0)

    return run


def whole_curve(name: str, batch: int, timesteps: int, kind: str) -> Action:
    """Accuracy at every t: one run, or one run a t."""
    snn = qcfs.convert(network(name, partial(QCFS, 4, 2.0)), [], neuron=IntegrateFire, simulate={"channels_last": True})
    images = torch.randn(batch, 3, 32, 32, device=DEVICE)
    if kind == "ours":
        return lambda: snn(images, timesteps)
    return lambda: [snn(images, t) for t in range(1, timesteps + 1)]


def conversions(name: str, images: int, timesteps: int) -> dict[str, Action]:
    """Every method of conf/method from a network to a model ready for T steps, calibration on `images` images included.

    The floor is one pass of the ReLU network over these images.  `finetune` is left out: it trains, for as long as it is told.
    """
    torch.manual_seed(1)
    seen = torch.randn(images, 3, 32, 32, device=DEVICE)
    batches = [(part, torch.zeros(len(part), dtype=torch.long, device=DEVICE)) for part in seen.split(100)]
    anns = {nn.ReLU: network(name, nn.ReLU).eval(), QCFS: network(name, partial(QCFS, 4, 2.0)).eval()}
    floor = anns[nn.ReLU]

    def convert(method: Any) -> None:
        kind = nn.ReLU if nn.ReLU in method.func.takes else QCFS
        method(anns[kind], batches).prepare(timesteps)

    methods: dict[str, Action] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for file in sorted((CONF / "method").glob("*.yaml")):
            if file.stem != "finetune":
                cfg = compose("config", [f"method={file.stem}", f"timesteps={timesteps}"])
                methods[file.stem] = partial(convert, instantiate(cfg.method))
    return {"ann": torch.no_grad()(lambda: [floor(part) for part, _ in batches]), **methods}


def explanation(name: str, images: int, timesteps: int) -> dict[str, Action]:
    """What is found besides the accuracy, at T = 1, 2, 4, …, beside the simulation of the same images."""
    torch.manual_seed(1)
    seen = torch.randn(images, 3, 32, 32, device=DEVICE)
    batches = [(part, torch.zeros(len(part), dtype=torch.long, device=DEVICE)) for part in seen.split(100)]
    ann = network(name, partial(QCFS, 4, 2.0)).eval()
    snn = qcfs.convert(ann, [], neuron=IntegrateFire, simulate={"channels_last": True})
    wanted = [2**k for k in range(timesteps.bit_length())]
    return {
        "simulation": lambda: [snn(part, timesteps) for part, _ in batches],
        "errors": lambda: decompose(ann, snn, batches, wanted, images),
        "operations": lambda: count_operations(snn, batches, wanted, images=images),
    }


def timed(actions: dict[str, Action], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of every action in every round, in turns, after `warmup` rounds that do not count."""

    def once(action: Action) -> float:
        start = time.perf_counter()
        action()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for action in (*actions.values(),) * warmup:
        once(action)
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            seconds[name].append(once(action))
    return seconds


class LiveBytes(TorchDispatchMode):
    """Follows the storage of every tensor made while open, and keeps the largest sum alive at once."""

    def __init__(self) -> None:
        super().__init__()
        there = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        self.known = {StorageWeakRef(tensor.untyped_storage()) for tensor in there}
        self.alive: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := StorageWeakRef(tensor.untyped_storage())) not in self.known:
                self.alive.setdefault(storage, tensor.untyped_storage().nbytes())
        self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def peak_memory(action: Action) -> float:
    """MiB of tensors that an action makes and holds at its peak, beyond what is there before."""
    action()
    if DEVICE == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with LiveBytes() as live:
        action()
    return live.peak / 2**20


class Report:
    """Collects groups of rows; prints each as a table when it is complete."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.console = Console(width=130)

    def group(self, title: str, actions: dict[str, Action], rounds: int, *, images: int = 0, floors: dict[str, str] | None = None,
              memory: dict[str, float] | None = None, warmup: int = 2) -> None:  # fmt: skip
        """Time `actions` and print them relative to the first (or to the floor that `floors` names for them)."""
        seconds, first = timed(actions, rounds, warmup), next(iter(actions))
        table = Table(title=title, title_justify="left")
        for column in (
            "variant",
            "median s",
            "min … max",
            "ratio",
            "to",
            *(["images/s"] if images else []),
            *(["MiB"] if memory else []),
        ):
            table.add_column(column, justify="left" if column in ("variant", "to") else "right")
        for name, times in seconds.items():
            floor = (floors or {}).get(name, first)
            ratio = statistics.median(a / b for a, b in zip(times, seconds[floor], strict=True))
            row: dict[str, Any] = {"group": title, "variant": name, "seconds": times, "ratio": ratio, "floor": floor}
            cells = [
                name,
                f"{statistics.median(times):.4f}",
                f"{min(times):.4f} … {max(times):.4f}",
                f"{ratio:.3f}",
                floor,
            ]
            if images:
                row["images_per_second"] = images / statistics.median(times)
                cells.append(f"{row['images_per_second']:.0f}")
            if memory:
                row["peak_mib"] = memory.get(name)
                cells.append(f"{memory[name]:.0f}" if name in memory else "")
            table.add_row(*cells)
            self.rows.append(row)
        self.console.print(table)

    def note(self, title: str, **figures: float) -> None:
        """A line of figures."""
        self.rows.append({"group": title, **figures})
        self.console.print(f"{title}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()))


def slope(xs: list[int], seconds: list[float]) -> float:
    """The exponent k of seconds ~ x^k, by least squares on logarithms."""
    x, y = torch.tensor(xs).double().log(), torch.tensor(seconds).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def main() -> None:
    """Run the groups that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network and few rounds: does everything run?")
    parser.add_argument("--json", type=Path, help="also write the figures, with versions and commit, to this file")
    parser.add_argument("--only", default="training,simulation,curve,conversion,explanation,scaling")
    parser.add_argument("--models", default="resnet18,vgg16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    models, batch, rounds, report = options.models.split(","), options.batch, options.rounds, Report()
    if options.quick:
        models, batch, rounds = ["mlp"], 64, 2
    for name in models:
        if "training" in options.only:
            kinds = ["relu", "naive", "ours", "relu-compiled", "ours-compiled"]
            memory = {kind: peak_memory(training_step(name, batch, kind)) for kind in ("relu", "naive", "ours")}
            actions = {kind: training_step(name, batch, kind) for kind in kinds}
            report.group(f"training step, {name}, batch {batch}", actions, rounds, images=batch, memory=memory,
                         floors={"relu-compiled": "relu", "ours-compiled": "relu-compiled"})  # fmt: skip
            report.note(f"training memory, {name}, ratio to relu", **{k: v / memory["relu"] for k, v in memory.items()})
        if "simulation" in options.only:
            kinds = [
                "ann",
                "ann-best",
                "spikingjelly-s",
                "spikingjelly-m",
                "ours",
                "ours-dense",
                "ours-compiled",
                "ours-bf16",
                "ours-compiled-bf16",
            ]
            for timesteps in (8,) if options.quick else (8, 32):
                actions = {kind: simulation(name, batch, timesteps, kind) for kind in kinds}
                report.group(
                    f"simulation, {name}, T = {timesteps}, batch {batch}",
                    actions,
                    max(rounds // (timesteps // 8), 2),
                    images=batch,
                )
                times = {row["variant"]: row["seconds"] for row in report.rows[-len(kinds) :]}
                ratios = [a / b for a, b in zip(times["ours"], times["spikingjelly-m"], strict=True)]
                report.note(f"ours / SpikingJelly multi-step, {name}, T = {timesteps}", ratio=statistics.median(ratios))
            peaks = {t: peak_memory(simulation(name, batch, t, "ours")) for t in (8, 128)}
            report.note(f"simulation memory, {name}, MiB", T8=peaks[8], T128=peaks[128], growth=peaks[128] / peaks[8])
        if "testset" in options.only:
            images, timesteps = (2 * batch, 8) if options.quick else (10_000 // batch * batch, 32)
            kinds = ["ann-best-bf16", "ours-bf16", "ours-compiled-bf16", "spikingjelly-m"]
            actions = {kind: test_set(name, batch, timesteps, kind, images) for kind in kinds}
            title = f"test set, {name}, {images} images, T = {timesteps}, batch {batch}"
            report.group(title, actions, min(rounds, 3), images=images)
        if "curve" in options.only:
            steps = 8 if options.quick else 32
            actions = {
                kind: whole_curve(name, 4 if not options.quick else batch, steps, kind)
                for kind in ("one run per T", "ours")
            }
            report.group(f"whole curve T = 1…{steps}, {name}", actions, 2)
        if "conversion" in options.only:
            images, timesteps = (100 if options.quick else 1000), 8
            title = f"conversion, {name}, {images} calibration images, T = {timesteps} where the network depends on T"
            report.group(title, conversions(name, images, timesteps), min(rounds, 3), warmup=1)
        if "explanation" in options.only:
            images, timesteps = (50, 8) if options.quick else (500, 32)
            title = f"explanation, {name}, {images} images, T = 1, 2, 4 … {timesteps}"
            report.group(title, explanation(name, images, timesteps), min(rounds, 3), images=images, warmup=1)
    if "scaling" in options.only:
        for what, values, build in (
            ("T", [4, 8, 16, 32], lambda value: simulation(models[0], 8, value, "ours")),
            ("batch", [8, 16, 32, 64], lambda value: simulation(models[0], value, 4, "ours")),
            ("width (MLP)", [512, 1024, 2048, 4096], lambda value: _wide_mlp(value)),
        ):
            times = timed({str(value): build(value) for value in values}, 2 if options.quick else 3)
            exponent = slope(values, [statistics.median(times[str(value)]) for value in values])
            report.note(f"scaling with {what}", exponent=exponent)
    if options.json:
        facts = {
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE,
            "convolutions_in_tf32": DEVICE == "cuda"
            and torch.backends.cudnn.allow_tf32,  # torch's default; float32 rows
            "threads": torch.get_num_threads(),
            "versions": environment.versions(),
            "commit": environment.commit(),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({**facts, "command": environment.command(), "rows": report.rows}, indent=1) + "\n"
        )


def _wide_mlp(width: int) -> Action:
    snn = qcfs.convert(network("mlp", partial(QCFS, 4, 2.0), width), [], neuron=IntegrateFire)
    images = torch.randn(64, 3, 32, 32, device=DEVICE)
    return lambda: snn(images, 8)


if __name__ == "__main__":
    main()
