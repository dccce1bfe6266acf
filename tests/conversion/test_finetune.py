"""Fine-tuning: gradients against plain loops with SpikingJelly's own surrogates, and what training leaves behind."""

import copy
import itertools
import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from spikingjelly.activation_based import surrogate
from torch import nn
from torch.nn import functional as F

from snnconv.conversion import registry
from snnconv.conversion.finetuning import finetune as finetune_snn
from snnconv.conversion.method import rehearse
from snnconv.conversion.methods import finetune
from snnconv.conversion.methods.finetune import convert
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.trainable import plain
from snnconv.conversion.trainable import trainable as trainable_network
from snnconv.data.batches import Batches
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.nn.kernels import SMALL
from snnconv.nn.models.over_time import MeanOverTime
from snnconv.nn.recompute import RecomputedOutputs
from snnconv.runtime.checkpoint import identity, load_ann
from snnconv.runtime.run import TrainingError
from snnconv.spiking.accuracy import accuracy
from snnconv.spiking.metrics import measure
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.neurons.surrogate import SurrogateIntegrateFire, surrogate_slope
from snnconv.spiking.tasks import Regress
from snnconv.training import through_time
from snnconv.training.through_time import Settings, Unrolled, loss

BASE = partial(qcfs, neuron=IntegrateFire)
UNFOLDED = {"fold_threshold": False}
SURROGATES = {
    "rect": surrogate.Rect, "atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid,
    "piecewise_quadratic": surrogate.PiecewiseQuadratic, "erf": surrogate.Erf,
}  # fmt: skip


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


class Literal(nn.Module):
    """One step of integrate-and-fire, left to autograd, with SpikingJelly's surrogate of the step function."""

    def __init__(self, theta: torch.Tensor, spike: nn.Module, detach_reset: bool, v_initial: float = 0.5) -> None:
        super().__init__()
        self.theta, self.spike, self.detach_reset = nn.Parameter(theta.double()), spike, detach_reset
        self.v_initial, self.v = v_initial, None

    def forward(self, current):
        theta = self.theta.view(-1, *[1] * (current.dim() - 2)) if self.theta.dim() else self.theta
        v = self.v_initial * theta if self.v is None else self.v
        charged = v + current
        spikes = self.spike(charged / theta - 1)
        self.v = charged - theta * (spikes.detach() if self.detach_reset else spikes)
        return theta * spikes


def ours(theta, name, sharpness=1.0, detach_reset=False, timesteps=1, v_initial=0.5) -> SurrogateIntegrateFire:
    neuron = IntegrateFire(theta, v_initial)
    trained = SurrogateIntegrateFire(neuron, surrogate_slope(name), sharpness, detach_reset, frozen=False)
    trained.timesteps = timesteps
    return trained


# the neuron


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize(("name", "kind"), SURROGATES.items())
@pytest.mark.parametrize("theta", [0.75, torch.tensor([0.5, 1.25, 2.0])], ids=["layer", "channel"])
@pytest.mark.parametrize("timesteps", [1, 2, 5])
def test_gradients_are_those_of_a_plain_loop(name, kind, detach_reset, theta, timesteps):
    neuron = ours(theta, name, 1.5, detach_reset, timesteps, v_initial=0.25)
    literal = Literal(torch.as_tensor(theta), kind(1.5), detach_reset, v_initial=0.25)
    current = torch.randn(timesteps, 4, 3, 2, 2, dtype=torch.float64)
    grad = torch.randn_like(current)
    mine, theirs = current.flatten(0, 1).requires_grad_(), current.clone().requires_grad_()
    output, expected = neuron(mine), torch.stack([literal(step) for step in theirs])
    same(output, expected.flatten(0, 1))
    output.backward(grad.flatten(0, 1))
    expected.backward(grad)
    torch.testing.assert_close(mine.grad.view_as(current), theirs.grad)
    torch.testing.assert_close(neuron.theta.grad.double(), literal.theta.grad, rtol=1e-5, atol=1e-5)  # θ is float32


def test_gradients_by_hand():
    """θ = 1, window ½ ≤ h ≤ 1½: h₁ = ½ + 0.6 fires and v = 0.1; h₂ = 0.1 + 0.6 is in the window, and does not fire.

    Without the reset's gradient y₁ gets 1; v(1) = h₁ − y₁ is then constant, so y₂ adds nothing to the gradient of x₁.
    """
    for detach_reset, expected in [(False, [1.0, 1.0]), (True, [2.0, 1.0])]:
        neuron, current = ours(1.0, "rect", detach_reset=detach_reset, timesteps=2), torch.full((2, 1), 0.6)
        output = neuron(current.requires_grad_())
        assert output.flatten().tolist() == [1, 0]
        output.sum().backward()
        assert current.grad.flatten().tolist() == expected


@pytest.mark.parametrize("shape", [(2, 8, 3, 40, 40), (2, 3, 24, 300)], ids=["channels last", "contiguous"])
def test_the_fused_kernel_gives_the_same(shape):
    """All images at once are many enough for the compiled kernel, one is not."""
    current, grad = torch.randint(-32, 48, shape) / 16, torch.randint(-8, 8, shape) / 8

    def run(some, grad):
        x = some.flatten(0, 1)
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        output = (neuron := ours(0.5, "rect", timesteps=2))(x.requires_grad_())
        output.backward(grad.flatten(0, 1))
        assert output.stride() == x.stride() or x.numel() < SMALL
        return output.detach().view_as(some), x.grad.view_as(some), neuron.theta.grad

    assert current.numel() > SMALL > current[:, :1].numel()
    output, of_current, of_theta = run(current, grad)
    alone = [run(current[:, n : n + 1], grad[:, n : n + 1]) for n in range(shape[1])]
    same(output, torch.cat([part[0] for part in alone], 1))
    same(of_current, torch.cat([part[1] for part in alone], 1))
    torch.testing.assert_close(of_theta, sum(part[2] for part in alone))


def test_only_the_input_is_kept():
    """The layer after it keeps the means to compute its input again."""
    neuron, layer, saved = ours(0.5, "rect", timesteps=2), nn.Conv2d(2, 2, 1), []
    current, grads = torch.randn(6, 2, 4, 4), []
    watch = torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x)
    for hooks in (watch, RecomputedOutputs()):
        layer.zero_grad()
        with hooks:
            output = layer(neuron(current.clone().requires_grad_()))
        output.square().sum().backward()
        grads.append(layer.weight.grad.clone())
    same(*grads)
    assert sum(tensor.shape == current.shape for tensor in saved) == 2  # the current, and the convolution's input


@pytest.mark.parametrize("theta", [0.75, torch.tensor([0.5, 1.25])], ids=["layer", "channel"])
@pytest.mark.parametrize("v_initial", [0.3, torch.rand(2, 3, 3)], ids=["number", "neuron"])
def test_the_trained_neuron_is_the_ordinary_one(theta, v_initial):
    neuron, current = ours(theta, "atan", timesteps=4, v_initial=v_initial), torch.randn(4, 5, 2, 3, 3)
    neuron.theta.data *= 1.1
    ordinary = neuron.trained()
    assert type(ordinary) is IntegrateFire
    same(neuron(current.flatten(0, 1)).detach(), ordinary(current).flatten(0, 1))


# the network


def trainable(ann, **settings):
    how = Settings(**{"epochs": 1, "lr": 0.01, "timesteps": 3, "surrogate": "atan", "sharpness": 2.0, **settings})
    return trainable_network(BASE(ann, [], simulate=UNFOLDED), how)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_gradients_of_a_network_are_those_of_a_plain_loop(exact_network, exact_images, kind):
    ann = exact_network(kind).double()
    network = trainable(ann)
    images, labels = exact_images().double(), torch.tensor([0, 1, 2, 0, 1])
    loss(Unrolled(network, 3)(images), labels, None, Settings(epochs=1, lr=1, timesteps=3, distill=0)).backward()

    literal = replace_modules(BASE(ann, [], simulate=UNFOLDED).network, OverTime, lambda clock: Literal(
        torch.tensor(clock.neuron.threshold), surrogate.ATan(2.0), False)).requires_grad_()  # fmt: skip
    F.cross_entropy(sum(literal(images) for _ in range(3)) / 3, labels).backward()
    gradients = {name.replace(".neuron", ""): p.grad for name, p in literal.named_parameters()}
    assert len(gradients) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        assert gradients[name].abs().sum() > 0
        torch.testing.assert_close(parameter.grad.double(), gradients[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ["step", "layer"])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_training_and_the_converted_network_see_the_same_logits(
    make_exact, exact_network, exact_images, kind, schedule
):
    network = trainable(exact_network(kind))
    for module in network.modules():
        if isinstance(module, SurrogateIntegrateFire):
            module.theta.data.fill_(0.75)  # as trained
    in_training = Unrolled(network, 3)(exact_images()).detach()
    snn = SpikingModel(
        plain(network), BASE(exact_network(kind), []).latency, simulation={**UNFOLDED, "schedule": schedule}
    )
    same(snn(exact_images(), 3), in_training)


# the loss


def test_the_loss_of_the_last_and_of_every_mean():
    logits, labels, taught = torch.randn(3, 4, 5), torch.tensor([0, 1, 2, 3]), torch.randn(4, 5)
    means = [logits[:t].mean(0) for t in (1, 2, 3)]
    how = partial(Settings, epochs=1, lr=1, timesteps=3)
    entropies = [F.cross_entropy(mean, labels) for mean in means]
    torch.testing.assert_close(loss(logits, labels, taught, how(distill=0)), entropies[-1])
    torch.testing.assert_close(loss(logits, labels, taught, how(distill=0, loss="every")), sum(entropies) / 3)
    distances = [
        4 * F.kl_div((mean / 2).log_softmax(1), (taught / 2).softmax(1), reduction="batchmean") for mean in means
    ]
    torch.testing.assert_close(loss(logits, labels, taught, how(distill=1, temperature=2.0)), distances[-1])
    mixed = loss(logits, labels, taught, how(distill=0.25, temperature=2.0, loss="every"))
    torch.testing.assert_close(mixed, (0.75 * sum(entropies) + 0.25 * sum(distances)) / 3)


# training


@pytest.fixture
def data(tiny_batches):
    return SimpleNamespace(train=tiny_batches(32, 8, shuffle=True))


@pytest.fixture
def ann():
    """A network that tells a bright top from a bright bottom, with thresholds far too high for a few steps."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), QCFS(4, 8.0), nn.Linear(8, 8), QCFS(4, 8.0), nn.Linear(8, 2)
    )
    return network.eval()


def right(snn, batches, timesteps):
    return [(snn(x, timesteps).mean(0).argmax(1) == y).double().mean().item() for x, y in batches]


def test_training_makes_a_network_right_at_its_timesteps(ann, data):
    before = BASE(ann, [])
    snn = convert(ann, [], base=BASE, data=data, epochs=20, lr=0.02, timesteps=2, distill=0.0)
    assert min(right(snn, data.train, 2)) == 1
    assert min(right(before, data.train, 2)) < 0.8
    assert snn.latency.needs_training == "weights"
    assert snn.timing.anytime


def test_the_ann_teaches(ann, data):
    """Without a word about labels the network comes to say what the ANN says."""
    for site in (ann[2], ann[4]):
        site.set_threshold(0.5)
    data.train.labels.zero_()
    settings = {"epochs": 20, "lr": 0.02, "timesteps": 1, "distill": 1.0, "temperature": 1.0}
    snn, start = convert(ann, [], base=BASE, data=data, **settings), BASE(ann, [])
    distances = [sum((some(x, 1)[0] - ann(x)).abs().sum() for x, _ in data.train).item() for some in (start, snn)]
    assert distances[1] < 0.6 * distances[0]


@pytest.mark.parametrize("thresholds", ["free", "frozen"])
def test_thresholds_are_free_or_frozen(ann, data, thresholds):
    snn = convert(ann, [], base=BASE, data=data, epochs=2, lr=0.02, timesteps=2, thresholds=thresholds)
    unchanged = [neuron.threshold == 8.0 for neuron in snn.neurons().values()]
    assert all(unchanged) if thresholds == "frozen" else not any(unchanged)


def test_same_seed_same_numbers_another_order_others(ann, data, tiny_batches, exact_images):
    def logits(train):
        options = {"epochs": 2, "lr": 0.02, "timesteps": [1, 2], "loss": "every"}
        return convert(ann, [], base=BASE, data=SimpleNamespace(train=train), **options)(exact_images(), 2)

    first = logits(data.train)
    torch.randn(3)
    same(logits(data.train), first)
    assert logits(tiny_batches(32, 8, shuffle=True, seed=1)).ne(first).any()


def test_a_network_that_is_not_finite_is_not_kept(ann, data, tmp_path, monkeypatch):
    """Only the last step of the epoch breaks it, so that no loss tells."""
    file, steps = tmp_path / "snn.safetensors", []

    class Breaks(torch.optim.SGD):
        def step(self):
            steps.append(self)
            if len(steps) == len(data.train):
                self.param_groups[0]["params"][0].data.fill_(torch.inf)

    monkeypatch.setattr(through_time, "_optimizer", lambda network, how: Breaks(network.parameters(), how.lr))
    with pytest.raises(TrainingError, match=r"network is not finite in epoch 1; try a smaller method\.lr"):
        convert(ann, [], base=BASE, data=data, epochs=1, lr=0.1, timesteps=2, distill=0.0, save=str(file))
    assert not file.exists()


def test_a_loss_that_is_not_finite_ends_the_training(ann, data):
    with pytest.raises(TrainingError, match=r"epoch 1; try a smaller method\.lr"):
        convert(ann, [], base=BASE, data=data, epochs=1, lr=1e30, timesteps=2, distill=0.0)


def _one_of(rank: int, world: int, folder: str) -> None:
    """A process of `world`: trains on its share, and writes what the network then says."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.manual_seed(rank)  # other weights in each: the first one's count
    ann = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), QCFS(4, 1.0), nn.Linear(8, 8), QCFS(4, 1.0), nn.Linear(8, 2))
    images = torch.randint(256, (32, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    train = Batches(images, torch.arange(32) % 2, 8 // world, [0.5], [0.25], shuffle=True)
    settings = {"epochs": 3, "lr": 0.02, "timesteps": 2, "distill": 0.0, "save": f"{folder}/{world}.safetensors"}
    snn = convert(ann.double(), [], base=BASE, data=SimpleNamespace(train=train), **settings)
    torch.save(snn(images / 256, 2), f"{folder}/{world}-{rank}.pt")


@pytest.mark.long
def test_two_processes_train_as_one(tmp_path):
    _one_of(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(_one_of, (2, str(tmp_path)), nprocs=2)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    same(first, second)
    torch.testing.assert_close(first, alone)
    torch.testing.assert_close(*(load_file(tmp_path / f"{world}.safetensors") for world in (1, 2)))


# what is kept


def test_what_was_trained_is_saved_and_loaded(ann, data, tmp_path, exact_images):
    options = {"base": BASE, "epochs": 1, "lr": 0.02, "timesteps": 2}
    trained = convert(ann, [], data=data, save=str(tmp_path / "snn.safetensors"), **options)
    loaded = convert(ann, [], data=None, load=str(tmp_path / "snn.safetensors"), **options)  # no images: no training
    same(loaded(exact_images(), 4), trained(exact_images(), 4))
    assert [n.threshold for n in loaded.neurons().values()] == [n.threshold for n in trained.neurons().values()]


def test_weights_of_another_network_are_refused(ann, data, tmp_path, exact_network):
    options = {"base": BASE, "epochs": 1, "lr": 0.02, "timesteps": 2}
    convert(ann, [], data=data, save=str(tmp_path / "snn.safetensors"), **options)
    with pytest.raises(ValueError, match="does not fit"):
        convert(exact_network(), [], data=None, load=str(tmp_path / "snn.safetensors"), **options)


def test_training_begins_with_what_was_trained_for_another_t(ann, data, tmp_path, exact_images):
    first, second = (str(tmp_path / name) for name in ("first.safetensors", "second.safetensors"))
    options = {"base": BASE, "data": data}
    trained = convert(ann, [], epochs=2, lr=0.02, timesteps=1, save=first, **options)
    begun = convert(ann, [], epochs=1, lr=1e-30, timesteps=2, start=first, save=second, **options)
    same(begun(exact_images(), 4), trained(exact_images(), 4))
    again = convert(ann, [], epochs=1, lr=0.02, timesteps=4, start=second, **options)
    assert not torch.equal(again(exact_images(), 4), trained(exact_images(), 4))
    assert "start" not in trained.facts
    assert begun.facts["start"].startswith("T=1 for 2 of 2 epochs at 0.02, ")
    assert again.facts["start"].startswith("T=2 for 1 of 1 epochs at 1e-30, ")
    convert(ann, [], epochs=2, lr=0.02, timesteps=1, save=first, distill=0.0, **options)
    other = convert(ann, [], epochs=1, lr=1e-30, timesteps=2, start=first, **options)
    assert other.facts["start"] != begun.facts["start"]  # and rows of a table are told apart


def test_seconds_of_earlier_trainings_count(ann, data, tmp_path, monkeypatch, caplog):
    """On a clock that moves by a second whenever it is looked at: after each epoch, and when a training begins."""
    first, second, older = (str(tmp_path / name) for name in ("1.safetensors", "2.safetensors", "3.safetensors"))
    monkeypatch.setattr(finetune, "time", SimpleNamespace(perf_counter=map(float, itertools.count()).__next__))
    monkeypatch.setattr(finetune, "train_through_time", lambda network, teacher, train, how, after_epoch, **_: [
        after_epoch(done) for done in range(1, how.epochs + 1)
    ])  # fmt: skip
    options = {"base": BASE, "data": data, "lr": 0.02, "timesteps": 1}
    assert convert(ann, [], epochs=3, save=first, **options).spent == 0  # the run itself measures these
    assert convert(ann, [], epochs=2, start=first, save=second, **options).spent == 3
    assert convert(ann, [], epochs=2, load=second, save=older, **options).spent == 5
    assert "training time" not in caplog.text
    with safe_open(older, "pt") as stored:
        made = json.loads(stored.metadata()["training"])
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    assert made.pop("seconds") == 5
    save_file(weights, older, {"training": json.dumps(made)})
    assert convert(ann, [], epochs=1, start=older, save=second, **options).spent == 0
    assert "does not record its training time" in caplog.text
    with safe_open(second, "pt") as stored:
        assert "seconds" not in json.loads(stored.metadata()["training"])  # unknown, not the last second of them


def test_what_another_network_became_is_told_apart(ann, data, tmp_path):
    """It fits, shape by shape, so nothing else would tell."""
    own, others = (str(tmp_path / name) for name in ("own.safetensors", "others.safetensors"))
    options = {"base": BASE, "epochs": 1, "lr": 0.02, "timesteps": 1, "data": data}
    other = copy.deepcopy(ann)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    for network, file in ((ann, own), (other, others)):
        convert(network, [], save=file, **options)
    wrong = partial(convert, load=others, **options)
    for begin in (wrong, partial(rehearse, wrong)):
        with pytest.raises(ValueError, match=r"load=.*: was trained from the network \w{12}, and run=… is \w{12}"):
            begin(ann, [])
    starts = [convert(ann, [], start=file, **options).facts["start"] for file in (own, others)]
    assert ["another network" in start for start in starts] == [False, True]
    assert convert(other, [], start=others, **options).facts["start"] == starts[0]  # seeds of one chain stay together


@pytest.mark.parametrize(
    "said",
    [
        "no json",
        "[1]",
        "null",
        '{"of": 3}',
        '{"timesteps": 1, "epochs": 1, "lr": 1, "of": 1, "seconds": "x"}',
        '{"timesteps": 1, "epochs": 1, "lr": 1, "of": 1, "seconds": NaN}',
        '{"timesteps": 1, "epochs": 1, "lr": "x", "of": 1}',
    ],
)
def test_a_file_that_does_not_say_how_it_was_trained(ann, data, tmp_path, said, caplog):
    file, options = tmp_path / "snn.safetensors", {"base": BASE, "epochs": 1, "lr": 0.02, "timesteps": 1}
    convert(ann, [], data=data, save=str(file), **options)
    save_file(load_file(file), file, {"training": said})
    for how in ("load", "start"):
        with pytest.raises(ValueError, match=r"snn\.safetensors: damaged, its record of the training cannot be read"):
            rehearse(partial(convert, data=data, **options | {how: str(file)}), ann, [])
    save_file(load_file(file), file)
    convert(ann, [], data=None, load=str(file), **options)
    assert "has no record of its training" in caplog.text
    assert convert(ann, [], data=data, start=str(file), **options).facts["start"] == "unknown"


def test_training_that_begins_with_a_file_keeps_its_own_potential(ann, data, tmp_path):
    file, options = str(tmp_path / "snn.safetensors"), {"data": data, "epochs": 1, "lr": 0.02, "timesteps": 1}
    convert(ann, [], base=BASE, save=file, **options)
    quarter = partial(qcfs, neuron=partial(IntegrateFire, v_initial=0.25))
    begun, loaded = (convert(ann, [], base=quarter, **options | {how: file}) for how in ("start", "load"))
    assert {float(neuron.v_initial) for neuron in begun.neurons().values()} == {0.25}
    assert {float(neuron.v_initial) for neuron in loaded.neurons().values()} == {0.5}


def test_every_epoch_is_kept(ann, data, tmp_path, exact_images, monkeypatch, caplog):
    """An interrupted training leaves the network of its last complete epoch, and the file records this."""
    file, told, rate = str(tmp_path / "snn.safetensors"), through_time._report, through_time.lr_at

    def interrupted(totals, epoch, *rest):
        if epoch == 2:
            raise KeyboardInterrupt
        told(totals, epoch, *rest)

    monkeypatch.setattr(through_time, "_report", interrupted)
    options = {"base": BASE, "timesteps": 2, "data": data, "lr": 0.02}
    with pytest.raises(KeyboardInterrupt):
        convert(ann, [], epochs=2, save=file, **options)
    monkeypatch.setattr(through_time, "lr_at", lambda step, steps, lr: rate(step, 2 * steps, lr))
    one_of_two = convert(ann, [], epochs=1, **options)
    loaded = convert(ann, [], epochs=2, load=file, **options)
    same(loaded(exact_images(), 4), one_of_two(exact_images(), 4))
    assert "training was interrupted after epoch 1 of 2" in caplog.text
    assert (loaded.facts["epochs"], loaded.facts["timesteps"]) == (1, 2)


@pytest.fixture
def teacher(open_tiny_run):
    """A run with an untrained network that nobody else has."""
    run = open_tiny_run("teacher")
    run.save_ann(instantiate(run.cfg.model), {})
    return run


def test_a_run_teaches_in_the_place_of_the_ann(data, teacher, monkeypatch):
    ann, seen = instantiate(teacher.cfg.model), []
    monkeypatch.setattr(
        through_time, "loss", lambda logits, labels, taught, how, task: seen.append(taught) or logits.sum()
    )
    options = {"base": BASE, "data": data, "epochs": 1, "lr": 0.02, "timesteps": 1}
    snn = convert(ann.double(), [], teacher=str(teacher.folder), **options)
    data.train.set_epoch(0)
    batches = [images for images, _ in data.train]
    with torch.no_grad():
        expected = torch.cat([load_ann(teacher.folder)(images) for images in batches])
        torch.testing.assert_close(torch.cat(seen), expected)
        assert not torch.allclose(expected, torch.cat([ann.eval()(images.double()).float() for images in batches]))
    assert snn.facts["teacher"] == identity(teacher.folder)


@pytest.mark.parametrize("begin", [rehearse, lambda method, *rest: method(*rest)], ids=["rehearsed", "done"])
def test_a_teacher_that_does_not_fit_is_named(teacher, data, begin, exact_network, exact_images):
    """Rehearsed, before anything is trained."""
    options = {"base": BASE, "epochs": 1, "lr": 0.02, "timesteps": 1, "teacher": str(teacher.folder)}
    with pytest.raises(ValueError, match=r"method\.teacher=.*: its network has outputs \[2\], this network has \[3\]"):
        begin(partial(convert, data=data, **options), exact_network(), [(exact_images(), torch.arange(2) % 2)])


# rehearsal and bad input


class NoData:
    """Images that must not be touched."""

    @property
    def train(self):
        raise AssertionError("trained")


def test_rehearsing_does_not_train(ann):
    method = partial(convert, base=BASE, data=NoData(), epochs=1, lr=0.01, timesteps=2)
    rehearse(method, ann, [])
    with pytest.raises(AssertionError, match="trained"):
        method(ann, [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0: must be an integer of at least 1"), ({"lr": 0.0}, "lr=0.0: must be a positive number"),
        ({"timesteps": 0}, "timesteps=0: must be integers"), ({"timesteps": []}, "timesteps="),
        ({"lr": math.inf}, "lr=inf: "), ({"precision": "fp16"}, "precision='fp16': must be float32 or tf32 or bf16"),
        ({"loss": "first"}, "loss='first': must be last or every"), ({"thresholds": "cold"}, "thresholds='cold': must be free"),
        ({"surrogate": "triangle"}, "surrogate='triangle': must be one of atan, erf"), ({"sharpness": 0.0}, "sharpness=0.0"),
        ({"momentum": 1.0}, "momentum=1.0"), ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"distill": 1.5}, "distill=1.5"), ({"temperature": 0.0}, "temperature=0.0"),
        ({"load": "nowhere.safetensors"}, "load=nowhere.safetensors: no such file"),
        ({"start": "nowhere.safetensors"}, "start=nowhere.safetensors: no such file"),
        ({"load": __file__, "start": __file__}, "start=.*: nothing is trained"),
        ({"load": __file__, "teacher": "no/run"}, "teacher=no/run: nothing is trained"),
        ({"teacher": "no/run"}, "teacher=no/run: this run folder does not exist"),
        ({"teacher": "no/run", "distill": 0.0}, "teacher=no/run: has no effect with method.distill=0"),
        ({"save": "bashrc"}, "save=bashrc: must end in .safetensors"),
        ({"save": "no/where.safetensors"}, "save=no/where.safetensors: no is not a folder"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named_before_training(ann, settings, message):
    method = partial(convert, base=BASE, data=NoData(), **{"epochs": 1, "lr": 0.1, "timesteps": 2} | settings)
    for begin in (partial(rehearse, method), method):
        with pytest.raises(ValueError, match=rf"method\.{message}"):
            begin(ann, [])


@pytest.mark.parametrize("base", ["srp", "signed"])
def test_a_base_of_other_neurons_is_refused(compose_config, ann, base):
    cfg = compose_config("method=finetune", f"method@method.base={base}", "levels=4", "timesteps=2")
    with pytest.raises(ValueError, match=r"method\.base: .*method@method\.base=qcfs"):
        rehearse(instantiate(cfg.method), ann, [(torch.randn(8, 1, 4, 4), torch.zeros(8))])


def test_the_base_says_what_it_cannot_convert(ann):
    with pytest.raises(ValueError, match="nothing to convert"):
        rehearse(partial(convert, base=BASE, data=NoData(), epochs=1, lr=0.1, timesteps=2), nn.Linear(16, 2), [])


# from a Python program


@pytest.mark.parametrize("simulation", [{"fold_threshold": True}, {"precision": "bf16"}], ids=["folded", "bf16"])
def test_a_converted_network_is_trained_as_the_ann_is(ann, data, simulation, exact_images):
    """However it was to be simulated: its neurons emit θ again, and its weights have all their bits."""
    expected = finetune_snn(ann, list(data.train), timesteps=2, epochs=2, lr=0.02, distill=0.0)
    snn = registry.convert(ann, simulation=simulation)
    before = copy.deepcopy(snn.state_dict())
    trained = finetune_snn(snn, list(data.train), timesteps=2, epochs=2, lr=0.02)
    torch.testing.assert_close(
        trained(exact_images(), 4).mean(0), expected(exact_images(), 4).mean(0), rtol=1e-3, atol=1e-3
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in snn.state_dict().items())
    assert trained.latency.needs_training == "weights"


def test_numbers_are_learned_over_time_as_written_out():
    """The loss of means up to each t, by hand; the result has the task of the model it began with, and is nearer to the targets."""
    torch.manual_seed(0)
    x = torch.rand(60, 4)
    y = x @ torch.tensor([[1.0], [2], [-1], [0]])
    task = Regress(mean=y.mean(0), std=y.std(0), metrics={"mae": measure("MeanAbsoluteError")})
    logits, taught = torch.randn(3, 60, 1), torch.randn(60, 1)
    settings = {"timesteps": 3, "epochs": 1, "lr": 1.0}
    scaled, means = (y - y.mean(0)) / y.std(0), [logits[:t].mean(0) for t in (1, 2, 3)]
    expected = sum((0.75 * (m - scaled).square() + 0.25 * (m - taught).square()).mean() for m in means) / 3
    torch.testing.assert_close(
        loss(logits, y, taught, Settings(loss="every", distill=0.25, **settings), task), expected
    )
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    batches = list(zip(x.split(20), y.split(20), strict=True))
    snn = registry.convert(network, x).for_task(task)
    trained = finetune_snn(snn, batches, timesteps=3, epochs=10, lr=0.02)
    assert (trained.task.mean, [*trained.task.metrics]) == (task.mean, ["mae"])
    assert accuracy(trained, batches) > accuracy(snn, batches) + 0.2
    with pytest.raises(ValueError, match=r"task=classify: targets are torch\.float32 \[2, 1\], expected integers"):
        finetune_snn(network, batches, timesteps=3)
    with pytest.raises(ValueError, match=r"the network returns \[2, 1\], the targets are \[2, 2\]"):
        finetune_snn(snn, [(x, y.expand(60, 2))], timesteps=3)


def test_frames_are_learned_one_in_each_step():
    """Unrolled over frames as the model simulates them."""
    torch.manual_seed(0)
    frames = torch.rand(6, 5, 4)
    network = MeanOverTime(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    snn = registry.convert(network, frames, simulation=UNFOLDED)
    expected = snn(frames, 7)
    unrolled = Unrolled(trainable_network(copy.deepcopy(snn), Settings(timesteps=7)), 7, snn.encoder)
    torch.testing.assert_close(unrolled(frames).detach(), expected)
    trained = finetune_snn(snn, [(frames, torch.arange(6) % 3)], timesteps=7, epochs=1, lr=1e-9)
    torch.testing.assert_close(trained(frames, 7), expected, rtol=1e-4, atol=1e-4)
    assert trained.latency.encoding == "frames"


def test_settings_that_do_not_exist_are_named(ann, data):
    with pytest.raises(ValueError, match=r"finetune: has no setting 'epoch'; did you mean epochs"):
        finetune_snn(ann, list(data.train), timesteps=2, epoch=2)
    with pytest.raises(ValueError, match="an iterator can be read only once"):
        finetune_snn(ann, iter(data.train), timesteps=2)
    with pytest.raises(ValueError, match="only plain integrate-and-fire neurons"):
        finetune_snn(registry.convert(ann, method="srp"), list(data.train), timesteps=2)
