"""Fine-tuning of networks with operators: against plain loops over the steps of each batch, and from a Python program."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import snnconv
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.trainable import trainable
from snnconv.data.loaders import Loader
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.spiking.accuracy import accuracy
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators import choice
from snnconv.spiking.operators.base import OperatorOverTime
from snnconv.training.through_time import Settings, Unrolled, lr_at, train_through_time

POOLED = nn.MaxPool2d(2)
OPERATORS = {"auto": POOLED, "winner": POOLED, "running_mean": nn.GELU()}  # by the name of the choice


class Rectangle(torch.autograd.Function):
    """Spike if x ≥ 0; the slope is 1 for |x| ≤ ½."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.saved_tensors[0].abs() <= 0.5)


class LiteralNeuron(nn.Module):
    """One step; `start` sets v = θ/2."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta).double())
        self.start()

    def start(self):
        self.v = None

    def forward(self, current):
        charged = current + (self.theta / 2 if self.v is None else self.v)
        output = self.theta * Rectangle.apply(charged / self.theta - 1)
        self.v = charged - output
        return output


class LiteralOperator(nn.Module):
    """One step of max pooling of counts, of the leading input, or of the running mean of GELU, as their papers write them."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.start()

    def start(self):
        self.inputs = []

    def forward(self, x):
        self.inputs.append(x)
        now, before = sum(self.inputs), sum(self.inputs[:-1], torch.zeros_like(x))
        t = len(self.inputs)
        if self.name == "auto":
            return F.max_pool2d(now, 2) - F.max_pool2d(before, 2)
        if self.name == "winner":
            windows = [y.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).movedim(-3, -2).flatten(-2) for y in (now, x)]
            return windows[1].gather(-1, windows[0].argmax(-1, keepdim=True)).squeeze(-1)
        return t * F.gelu(now / t) - ((t - 1) * F.gelu(before / (t - 1)) if t > 1 else 0)


def network(name, **simulation):
    """Neuron, operator, and a neuron that reads the operator."""
    torch.manual_seed(0)
    size = 4 if OPERATORS[name] is POOLED else 16
    ann = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), QCFS(4, 0.75), nn.Conv2d(3, 4, 3, padding=1), *(
        [QCFS(4, 0.5), POOLED] if OPERATORS[name] is POOLED else [OPERATORS[name]]), nn.Flatten(),
        nn.Linear(4 * size, 6), QCFS(4, 0.125), nn.Linear(6, 3)).double().eval()  # fmt: skip
    return qcfs(ann, [], operators=getattr(choice, name), simulate={"fold_threshold": False, **simulation})


def batches(count, size=5):
    torch.manual_seed(1)
    return [(torch.randn(size, 1, 4, 4).double(), torch.arange(size) % 3) for _ in range(count)]


def literal_of(snn, name):
    neurons = replace_modules(copy.deepcopy(snn.network), OverTime, lambda clock: LiteralNeuron(clock.neuron.threshold))
    return replace_modules(neurons, OperatorOverTime, lambda clock: LiteralOperator(name)).requires_grad_()


def means(literal, images, timesteps):
    """Mean output of `timesteps` steps from zero state."""
    for module in literal.modules():
        if isinstance(module, LiteralNeuron | LiteralOperator):
            module.start()
    return sum(literal(images) for _ in range(timesteps)) / timesteps


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_each_batch_is_trained_from_zero_state_as_in_a_plain_loop(name, timesteps):
    """Two batches of the same shape and a smaller one; every operator has a gradient."""
    how = Settings(timesteps=timesteps, epochs=1, lr=0.01, distill=0.0)
    snn, data = network(name), [*batches(2), *batches(1, size=3)]
    literal = literal_of(snn, name)
    assert len(snn.operators()) == 1
    parameters = list(literal.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.999), weight_decay=0.0)
    for step, (images, labels) in enumerate(data):
        optimizer.param_groups[0]["lr"] = lr_at(step, len(data), how.lr)
        optimizer.zero_grad()
        F.cross_entropy(means(literal, images, timesteps), labels).backward()
        assert all(p.grad.abs().sum() > 0 for p in parameters)
        optimizer.step()
    trained = trainable(snn, how)
    train_through_time(trained, None, Loader(data, torch.device("cpu"), labelled=True), how)
    expected = {path.replace(".neuron", ""): p.detach() for path, p in literal.named_parameters()}
    assert len(expected) == len(list(trained.parameters()))
    for path, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[path], rtol=1e-5, atol=1e-6, msg=path)


@pytest.mark.parametrize("schedule", ["step", "layer"])
@pytest.mark.parametrize("name", OPERATORS)
def test_training_sees_the_logits_of_the_simulation_in_every_call(name, schedule):
    """Whatever state and time axis an earlier simulation left; a call leaves none, so the model can be copied."""
    snn, ((images, _),) = network(name, schedule=schedule), batches(1)
    expected = snn(images, 3)
    snn(images, 7)
    unrolled = Unrolled(trainable(snn, Settings(timesteps=3)), 3)
    for _ in range(2):
        outputs = unrolled(images)
        torch.testing.assert_close(outputs.detach(), expected, rtol=0, atol=1e-12)
        assert outputs.requires_grad
        copy.deepcopy(unrolled)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(32, 2)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.last(F.max_pool2d(x, 2).flatten(1))


def convolutions(*end):
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), *end)


NETWORKS = {
    "MaxPool2d": lambda: convolutions(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 2)),
    "max_pool2d": Functional,
    "GELU": lambda: convolutions(nn.GELU(), nn.Flatten(), nn.Linear(128, 2)),
}


@pytest.mark.parametrize(("name", "count"), [("MaxPool2d", 4), ("MaxPool2d", 1), ("max_pool2d", 4), ("GELU", 4)])
def test_a_network_with_an_operator_learns_and_is_copied_and_saved(name, count, tmp_path):
    """Bright top or bright bottom, in one batch or several of an epoch."""
    torch.manual_seed(0)
    labels = torch.arange(32) % 2
    images = torch.rand(32, 1, 4, 4)
    images[labels == 0, :, :2] += 0.5
    images[labels == 1, :, 2:] += 0.5
    data = list(zip(images.chunk(count), labels.chunk(count), strict=True))
    quantized = snnconv.prepare(NETWORKS[name](), levels=4, calibration=data)
    snn = snnconv.convert(quantized, calibration=data)
    snn.timesteps = 2
    trained = snnconv.finetune(snn, data, timesteps=2, epochs=20 // count, lr=0.02)
    assert len(trained.operators()) == 1
    assert accuracy(trained, data) > max(0.9, accuracy(snn, data))
    expected = trained(images, 3)
    torch.testing.assert_close(copy.deepcopy(trained)(images, 3), expected, rtol=0, atol=0)
    snnconv.save(trained, tmp_path / "snn")
    torch.testing.assert_close(snnconv.load(tmp_path / "snn")(images, 3), expected)
    assert not any(parameter.grad_fn for parameter in trained.parameters())
