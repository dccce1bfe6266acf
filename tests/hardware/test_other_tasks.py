"""Integers and quantized ANNs for tasks other than classes."""

import pytest
import torch
from torch import nn

import snnconv
from snnconv.data.splits import Splits, cut
from snnconv.hardware.baselines.ptq import dynamic, static
from snnconv.hardware.baselines.qat import qat
from snnconv.hardware.integer.network import in_real_units, integerize
from snnconv.hardware.integer.operations import LOGITS
from snnconv.spiking.accuracy import accuracy
from snnconv.spiking.encoders.phase import Phase
from snnconv.spiking.metrics import measure
from snnconv.spiking.tasks import Multilabel, Regress, Task

X = torch.rand(200, 6, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.stack([X[:, 0] + 2 * X[:, 1], X[:, 2] - X[:, 3]], 1) * 10 + 50
MEAN, STD = NUMBERS.mean(0), NUMBERS.std(0)
TASKS: dict[str, tuple[Task, torch.Tensor]] = {
    "regress": (Regress(mean=MEAN, std=STD, metrics={"mae": measure("MeanAbsoluteError")}), NUMBERS),
    "multilabel": (Multilabel(metrics={"auroc": measure("AUROC", task="multilabel", num_labels=2)}), (NUMBERS > MEAN) * 1.0),
}  # fmt: skip
tasks = pytest.mark.parametrize("name", TASKS)


def splits(targets: torch.Tensor) -> Splits:
    pairs = [(X[part], targets[part]) for part in (slice(150), slice(150, None))]
    facts = {"num_classes": 2, "input_shape": [6], "mean": [0.0], "std": [1.0], "batch_size": 25, "seed": 0}
    return cut("toy", *pairs, valid=10, calibration=100, device="cpu", **facts)


@pytest.fixture(scope="module")
def trained():
    """Networks with QCFS that have learned each task, and its data."""
    made = {}
    for name, (task, targets) in TASKS.items():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
        model, data = snnconv.prepare(network, levels=8, calibration=X), splits(targets)
        snnconv.fit(model, data.train, epochs=20, lr=0.05, task=task, verbose=False)
        made[name] = model, data
    return made


@tasks
def test_integers_give_the_numbers_of_the_float_network(name, trained):
    """In the unit of its outputs: raw sums are thousands of times as large."""
    (model, data), (task, _) = trained[name], TASKS[name]
    snn = snnconv.convert(model, X).for_task(task)
    network = integerize(snn, data.calibration)
    real, (x, _) = in_real_units(network), next(iter(data.test))
    expected = snn(x, 8)
    torch.testing.assert_close(real(x, 8), network.snn(x, 8) * network.units[LOGITS].float())
    assert (real(x, 8).mean(0) - expected.mean(0)).abs().mean() < 0.02 * expected.mean(0).std()
    one, other = (snnconv.accuracy_over_time(each, data.test, [8]) for each in (snn, real))
    assert other.accuracy[8] == pytest.approx(one.accuracy[8], abs=0.03)
    assert {name: values[8] for name, values in other.metrics.items()} == pytest.approx(
        {name: values[8] for name, values in one.metrics.items()}, rel=0.05
    )
    network.require_exact()


@tasks
def test_quantized_networks_are_judged_and_trained_by_the_task(name, trained):
    (model, data), (task, _) = trained[name], TASKS[name]
    reached = accuracy(model, data.test, task)
    assert reached > 0.7
    for quantize in (static, dynamic):
        assert accuracy(quantize(model, data, task).network, data.test, task) == pytest.approx(reached, abs=0.02)
    coarse = {"weight_bits": 3, "activation_bits": 8}
    x, y = data.train.images, data.train.labels
    before = task.loss(static(model, data, task, **coarse).network(x), y)
    after = task.loss(qat(model, data, task, epochs=6, lr=0.1, **coarse).network(x), y)
    assert after < before - 0.02


def test_inputs_that_change_have_no_integers_yet(trained):
    model, data = trained["regress"]
    snn = snnconv.convert(model, X).encoded(Phase(), [(X, None)])
    with pytest.raises(ValueError, match=r"encoder=phase: an integer network takes the same inputs in every step"):
        integerize(snn, data.calibration)
