"""Networks on disk without their source code: `save` and `load`, safetensors and JSON, nothing unpickled."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from spikingjelly.activation_based import functional
from torch import Tensor, fx, nn

from snnconv.nn.graph.capture import capture
from snnconv.nn.graph.plain import to_plain
from snnconv.nn.graph.rebuild import from_plain
from snnconv.nn.graph.trace import trace
from snnconv.runtime import environment, files, zoo
from snnconv.runtime.checkpoint import load_ann
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.simulation import Timing
from snnconv.spiking.stored_parts import describe_encoder, describe_task, stored_encoder, stored_task

FORMAT = 1  # increased when files of an older version can no longer be read


def save(network: nn.Module, path: str | Path, *, example: Tensor | None = None) -> None:
    """Write a `SpikingModel` or an ANN to `path`.json and `path`.safetensors.

    The files hold the graph of the network, its layers and neurons, all tensors, and for a `SpikingModel` its method, class,
    settings, task with its metrics, and encoder.  `load` rebuilds it without the source code of the network.  `example` [N, …] is
    one batch of inputs; an ANN whose forward pass cannot be traced symbolically is captured with it.

    A model whose network depends on T is saved for the T that was simulated last (or its `timesteps`), and runs only with that T,
    or also with a smaller T if its method supports this (`temporal_bias`).

    ValueError naming a layer, call or metric that cannot be saved.

    >>> import tempfile, torch, snnconv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> snn = snnconv.convert(model, torch.rand(100, 4))
    >>> x = torch.rand(5, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     snnconv.save(snn, f"{folder}/snn")
    ...     again = snnconv.load(f"{folder}/snn")
    >>> torch.equal(again(x, timesteps=8), snn(x, timesteps=8))
    True
    """
    base, description = _base(path), {"format": FORMAT, "kind": "ann"}
    if isinstance(network, SpikingModel):
        description |= {"kind": "snn", **_described(network)}
        network, example = (network.exact or network).network, None
        functional.reset_net(network)
    plain, tensors = to_plain(_graph(network, example))
    description |= {"network": plain, "versions": environment.versions(), "commit": environment.commit()}
    base.parent.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    files.replace(base.with_name(f"{base.name}.safetensors"), as_bytes(content))
    files.write_json(base.with_name(f"{base.name}.json"), description)


def load(path: str | Path, *, trust: tuple[str, ...] = ()) -> nn.Module:
    """The network that `save` wrote to `path`, or the trained network of a run folder or of the zoo, in eval mode on the CPU.

    A network of the zoo (docs/zoo.md) is loaded by its name: `load("digits_mlp_qcfs_l4")`.

    `trust` names packages and Python files from which a run folder may build its network (`model=custom`).  Files written by `save`
    contain no code and need no `trust`.

    FileNotFoundError if `path` is neither; ValueError naming the file if it is damaged or of another version.

    >>> import tempfile, torch, snnconv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     snnconv.save(model, f"{folder}/ann")
    ...     again = snnconv.load(f"{folder}/ann.json")
    >>> torch.equal(again(torch.ones(2, 4)), model(torch.ones(2, 4)))
    True
    """
    if str(path) in zoo.names() and not any(_base(path).with_suffix(suffix).exists() for suffix in ("", ".json")):
        path = f"{zoo.WORD}/{path}"
    folder, base = zoo.located(path), _base(path)
    if (folder / "ann.json").is_file():
        return load_ann(folder, trust=trust)
    description_file, tensors_file = (base.with_name(base.name + suffix) for suffix in (".json", ".safetensors"))
    for file in (description_file, tensors_file):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; load reads files of snnconv.save, a run folder with ann.json, or a network of the "
                f"zoo ({', '.join(zoo.names()) or 'empty'})"
            )
    description: Any = files.read_json(description_file)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{description_file}: not a file of snnconv.save in format {FORMAT}")
    try:
        tensors = load_file(tensors_file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{tensors_file}: damaged, or not a safetensors file ({error})") from error
    try:
        network = from_plain(description["network"], tensors)
        return _spiking(description, network) if description["kind"] == "snn" else network
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{description_file}: {error}") from error


def _base(path: str | Path) -> Path:
    """`path` without the suffix of one of the two files."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".json", ".safetensors") else path


def _graph(network: nn.Module, example: Tensor | None) -> fx.GraphModule:
    """The graph of `network` in eval mode; its mode is restored."""
    training = network.training
    try:
        network.eval()
        if example is not None:
            return capture(network, example)
        graph = fx.GraphModule(network, trace(network, (OverTime,)))
        graph.meta.update(getattr(network, "meta", {}))
        return graph
    finally:
        network.train(training)


def _described(snn: SpikingModel) -> dict[str, Any]:
    """Description of `snn` without its network; a network that depends on T is prepared for one T."""
    only = None
    if snn.for_timesteps is not None:
        only = snn._prepared or snn.timesteps
        if only is None:
            raise ValueError("this network depends on T; run it once, or set snn.timesteps, before you save it")
        snn.prepare(only)
    timing = asdict(snn.timing)
    return {
        "method": snn.method, "timesteps": only or snn.timesteps, "only": only, "latency": snn.latency.as_dict(), "timing": timing,
        "simulation": asdict(snn.simulation), "facts": snn.facts, "spent": snn.spent,
        "task": describe_task(snn.task), "encoder": describe_encoder(snn.encoder),
    }  # fmt: skip


class _Only:
    """The network of a model that was saved for one T, and with `anytime` serves every smaller T."""

    def __init__(self, network: nn.Module, timesteps: int, anytime: bool) -> None:
        self.network, self.timesteps, self.anytime = network, timesteps, anytime

    def __call__(self, timesteps: int) -> nn.Module:
        if timesteps > self.timesteps or (timesteps < self.timesteps and not self.anytime):
            suitable = f"T ≤ {self.timesteps}" if self.anytime else f"T = {self.timesteps} only"
            raise ValueError(f"timesteps={timesteps}: this model was saved for {suitable}; convert again for another T")
        return self.network


def _spiking(description: dict[str, Any], network: nn.Module) -> SpikingModel:
    only = description["only"]
    options = {name: description[name] for name in ("timesteps", "method", "facts", "spent", "simulation")}
    if only:
        options["for_timesteps"] = _Only(network, only, description["timing"]["anytime"])
    latency = Latency(**description["latency"])
    model = SpikingModel(network, latency, Timing(**description["timing"]), **options)
    return model.encoded(stored_encoder(description)).for_task(stored_task(description))
