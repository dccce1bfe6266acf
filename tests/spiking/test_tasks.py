"""Tasks: score, loss, readout and metrics against slow transcriptions, and what is said where a task does not fit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnconv.conversion.registry import convert
from snnconv.spiking.accuracy import accuracy, accuracy_over_time
from snnconv.spiking.measured import measured
from snnconv.spiking.metrics import measure
from snnconv.spiking.tasks import LEAK, TASKS, Classify, Dense, Multilabel, Regress
from snnconv.training.fitting import fit

N, K, T = 6, 3, 5
CLASSES = torch.tensor([0, 1, 2, 0, 1, 0])
EXAMPLES = {
    "classify": (Classify(), torch.randn(T, N, K), CLASSES),
    "multilabel": (Multilabel(), torch.randn(T, N, K), torch.tensor([[1.0, 0, 1], [0, 0, 1]] * 3)),
    "regress": (Regress(mean=[1.0, 2, 3], std=[2.0, 2, 4]), torch.randn(T, N, K), torch.randn(N, K) * 3 + 2),
    "maps": (Regress(), torch.randn(T, N, 1, 4, 4), torch.randn(N, 1, 4, 4)),
    "dense": (Dense(), torch.randn(T, N, K, 4, 4), torch.randint(K, (N, 4, 4)).index_fill(2, torch.tensor([1]), 255)),
}
every = pytest.mark.parametrize(("task", "outputs", "targets"), EXAMPLES.values(), ids=EXAMPLES)


def score(task, output, target) -> float:
    """Of one sample, by hand."""
    if task.name == "classify":
        return float(output.argmax() == target)
    if task.name == "multilabel":
        return sum(float((o > 0) == (t == 1)) for o, t in zip(output, target, strict=True)) / len(target)
    if task.name == "dense":
        pairs = [(output[:, y, x].argmax(), target[y, x]) for y in range(4) for x in range(4) if target[y, x] != 255]
        return sum(float(o == t) for o, t in pairs) / len(pairs)
    mean, std = (
        torch.tensor(v or d).view(-1, *[1] * (target.dim() - 1)) for v, d in ((task.mean, [0.0]), (task.std, [1.0]))
    )
    return float(1 - (output - (target - mean) / std).square().mean())


@every
def test_the_score_of_every_sample_at_every_t(task, outputs, targets):
    expected = torch.tensor([[score(task, o, t) for o, t in zip(step, targets, strict=True)] for step in outputs])
    torch.testing.assert_close(task.right(outputs, targets).float(), expected)
    torch.testing.assert_close(task.right(outputs[0], targets).float(), expected[0])


@every
def test_its_own_targets_fit_and_the_loss_can_be_trained(task, outputs, targets):
    assert task.prepared(targets).name == task.name
    output = outputs[0].clone().requires_grad_()
    loss = task.loss(output, targets)
    loss.backward()
    assert loss.dim() == 0
    assert output.grad.abs().sum() > 0


def test_losses_by_hand():
    task, outputs, targets = EXAMPLES["regress"]
    expected = (
        sum((outputs[0][:, k] - (targets[:, k] - task.mean[k]) / task.std[k]).square().mean() for k in range(K)) / K
    )
    torch.testing.assert_close(task.loss(outputs[0], targets), expected)
    torch.testing.assert_close(task.shown((targets - torch.tensor(task.mean)) / torch.tensor(task.std)), targets)
    task, outputs, targets = EXAMPLES["dense"]
    flat = outputs[0].movedim(1, -1)[targets != 255]
    torch.testing.assert_close(task.loss(outputs[0], targets), F.cross_entropy(flat, targets[targets != 255]))
    weighted = Classify(class_weights=[1.0, 2.0, 0.0])
    each = F.cross_entropy(outputs[0, :, :, 0, 0], CLASSES, reduction="none")
    weights = torch.tensor([1.0, 2.0, 0.0])[CLASSES]
    torch.testing.assert_close(weighted.loss(outputs[0, :, :, 0, 0], CLASSES), (each * weights).sum() / weights.sum())


@every
def test_the_distance_from_a_teacher(task, outputs, targets):
    """Zero from itself, and otherwise the divergence of distributions, or the squared distance, written out."""
    ours, theirs, tau = outputs[0].double(), outputs[1].double(), 2.0
    torch.testing.assert_close(task.distance(ours, ours, tau), torch.zeros((), dtype=torch.float64))
    if task.name == "regress":
        expected = (ours - theirs).square().mean()
    elif task.name == "multilabel":
        p, q = (theirs / tau).sigmoid(), (ours / tau).sigmoid()
        expected = tau**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    else:
        p, q = (theirs / tau).softmax(1), (ours / tau).softmax(1)
        expected = tau**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(task.distance(ours, theirs, tau), expected)


def test_the_confidence_in_a_decision():
    outputs = {name: EXAMPLES[name][1].double() for name in ("classify", "multilabel", "dense")}
    for t, n in ((0, 0), (3, 5)):
        one = outputs["classify"][t, n]
        assert Classify().confidence(outputs["classify"])[t, n] == pytest.approx(one.softmax(0).max().item())
        labels = [max(p, 1 - p) for p in outputs["multilabel"][t, n].sigmoid().tolist()]
        assert Multilabel().confidence(outputs["multilabel"])[t, n] == pytest.approx(min(labels))
        pixels = [outputs["dense"][t, n, :, y, x].softmax(0).max().item() for y in range(4) for x in range(4)]
        assert Dense().confidence(outputs["dense"])[t, n] == pytest.approx(sum(pixels) / 16)
    with pytest.raises(ValueError, match="task=regress have no confidence"):
        Regress().require_confidence()


def test_balanced_labels_weigh_as_much_with_as_without():
    targets = torch.tensor([[1.0, 0], [1, 1], [1, 0], [0, 0]])
    task = Multilabel(label_weights="balanced").prepared(targets)
    assert task.label_weights == pytest.approx([1 / 3, 3])
    outputs = torch.randn(4, 2)
    each = [F.binary_cross_entropy_with_logits(outputs[:, k], targets[:, k], reduction="none") for k in range(2)]
    weights = [torch.where(targets[:, k] > 0, task.label_weights[k], 1.0) for k in range(2)]
    expected = sum((e * w).sum() for e, w in zip(each, weights, strict=True)) / 8
    torch.testing.assert_close(task.loss(outputs, targets), expected)
    with pytest.raises(ValueError, match="no training sample has label 1"):
        Multilabel(label_weights="balanced").prepared(torch.tensor([[1.0, 0], [0, 0]]))
    with pytest.raises(ValueError, match=r"task\.label_weights: 3 weights for 2 labels"):
        Multilabel(label_weights=[1.0, 1, 1]).prepared(targets)


@pytest.mark.parametrize(
    ("task", "targets", "text"),
    [
        (Classify(), torch.tensor([2, 2, 2]), "the training targets hold class 2 alone; at least two classes"),
        (Dense(), torch.tensor([[[0, 255], [0, 0]]]), "class 0 alone, and 255 counts as no label"),
        (Regress(), torch.tensor([[1.0, 7], [2, 7]]), "all training targets of output 1 are 7; omit this output"),
        (Classify(), torch.tensor([[0.0], [1]]), r"expected integers \[N\], .*classes are integers, y.astype\(int\)"),
        (Classify(), torch.tensor([[0.0, 1], [1, 0]]), r"task=multilabel or regress; one-hot rows are classes by y.argmax\(1\)"),
        (Regress(), torch.tensor([0.5, 1.5]), r"expected numbers in floating point, \[N, K\]; numbers are given as \[N, 1\]"),
        (Multilabel(), torch.tensor([[0.0, 2], [1, 0]]), "expected 0 and 1 .*they fit task=regress"),
    ],
)  # fmt: skip
def test_targets_from_which_nothing_can_be_learned(task, targets, text):
    with pytest.raises(ValueError, match=text):
        task.prepared(targets)


def test_a_class_without_samples_is_told(caplog):
    Classify().prepared(torch.tensor([1, 2, 2]))
    assert "no training sample has class 0, of classes up to 2; are they numbered from 0" in caplog.text


def test_targets_that_would_be_broadcast_are_refused():
    """[N, 1] minus [N] is [N, N]: a score would come out."""
    model = nn.Linear(4, 1)
    batches = [(torch.rand(6, 4), torch.rand(6))]
    with pytest.raises(ValueError, match=r"numbers are given as \[N, 1\]"):
        accuracy(model, batches, Regress())
    with pytest.raises(ValueError, match=r"the network returns \[6, 1\], the targets are \[6, 2\]"):
        accuracy(model, [(torch.rand(6, 4), torch.rand(6, 2))], Regress())
    with pytest.raises(ValueError, match="5 of 6 targets are no class of the network, which has 1 outputs"):
        accuracy(model, [(torch.rand(6, 4), torch.arange(6))])
    with pytest.raises(ValueError, match="task=classify: targets are"):
        fit(model, batches, epochs=1, lr=0.1, verbose=False)


def test_balanced_weights_give_every_class_the_same_share():
    weights = torch.tensor(Classify(class_weights="balanced").prepared(CLASSES).class_weights)
    torch.testing.assert_close(weights * CLASSES.bincount(), torch.full((3,), 2.0))
    with pytest.raises(ValueError, match="no training sample has class 1"):
        Classify(class_weights="balanced").prepared(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="2 weights for 3 classes"):
        Classify(class_weights=[1.0, 2.0]).prepared(CLASSES)


@every
def test_readouts_agree_where_the_outputs_are_constant(task, outputs, targets):
    constant = outputs[:1].expand(T, *outputs.shape[1:])
    for readout in ("mean", "membrane", "last"):
        read = type(task)(readout=readout).read(constant)
        torch.testing.assert_close(read, constant.double())


def test_the_membrane_forgets_and_the_last_step_stands_alone():
    outputs = torch.randn(T, N, K, dtype=torch.float64)
    for t in range(1, T + 1):
        weights = torch.tensor([(1 - 1 / LEAK) ** (t - i) for i in range(1, t + 1)], dtype=torch.float64)
        expected = (weights.view(-1, 1, 1) * outputs[:t]).sum(0) / weights.sum()
        torch.testing.assert_close(Classify(readout="membrane").read(outputs)[t - 1], expected)
    torch.testing.assert_close(Classify(readout="last").read(outputs), outputs)


@pytest.mark.parametrize(("name", "targets"), [
    ("classify", torch.rand(4, 1)), ("classify", torch.zeros(4, 2, 2).long()), ("regress", CLASSES),
    ("multilabel", torch.rand(4, 2)), ("dense", CLASSES),
])  # fmt: skip
def test_targets_of_another_task_are_told(name, targets):
    with pytest.raises(ValueError, match=rf"task={name}: targets are .*; they fit task="):
        TASKS[name]().prepared(targets)


def test_a_network_of_other_outputs_is_told():
    with pytest.raises(
        ValueError, match=r"task=dense: the network returns \[4, 3\], the targets are \[4, 8, 8\]; choose another"
    ):
        Dense().require_outputs(torch.zeros(4, 3), torch.zeros(4, 8, 8).long())
    with pytest.raises(ValueError, match="readout='sum': must be mean, membrane or last"):
        Classify(readout="sum")
    with pytest.raises(ValueError, match="name=Sequential: not a metric of torchmetrics"):
        measure("Sequential")
    with pytest.raises(ValueError, match="is for classes and labels"):
        measure("F1Score", task=None)


@pytest.mark.parametrize("name", ["classify", "multilabel", "regress"])
def test_from_training_to_metrics_over_time(name):
    """In Python, without a configuration: at large T the SNN scores what its ANN scores, and metrics are those of its outputs."""
    torch.manual_seed(0)
    x = torch.rand(120, 4)
    numbers = x @ torch.tensor([[1.0, -1], [2, 0], [0, 1], [1, 1]])
    targets = {"classify": numbers.argmax(1), "multilabel": (numbers > 1).float(), "regress": numbers}[name]
    metrics = {"classify": {"f1": measure("F1Score", task="multiclass", num_classes=2, average="macro")},
               "multilabel": {"each": measure("Recall", task="multilabel", num_labels=2, average="none")},
               "regress": {"mae": measure("MeanAbsoluteError")}}[name]  # fmt: skip
    task = TASKS[name](metrics=metrics).prepared(targets)
    batches = list(zip(x.split(20), targets.split(20), strict=True))
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    fit(model, batches, epochs=15, lr=0.1, task=task, verbose=False)
    snn = convert(model, batches, method="max_norm").for_task(task)
    curve = accuracy_over_time(snn, batches, [2, 256])
    assert curve.accuracy[256] == pytest.approx(accuracy(model, batches, task), abs=0.03)
    assert curve.accuracy[256] > 0.8
    reference = measured(model, batches, task).metrics
    assert curve.metrics.keys() == reference.keys() == ({"each/0", "each/1"} if name == "multilabel" else {*metrics})
    for key, value in reference.items():
        assert curve.metrics[key][256] == pytest.approx(value, abs=0.05)
    if name == "regress":
        outputs = snn(x, 2).mean(0)
        assert curve.metrics["mae"][2] == pytest.approx((outputs - numbers).abs().mean().item(), rel=1e-4)
    assert snn.latency.readout == "mean"
