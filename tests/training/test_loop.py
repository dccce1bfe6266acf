"""Training: settings do what they say, nothing good is lost, and an interruption changes no number."""

import copy
import math
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from snnconv.data.augment import RandomCrop
from snnconv.nn.activations.qcfs import QCFS
from snnconv.runtime import checkpoint, files
from snnconv.runtime.run import Run, TrainingError
from snnconv.runtime.stored_config import settle
from snnconv.training import loop as training
from snnconv.training import trainer
from snnconv.training.loop import fit
from snnconv.training.optimizers import optimizer_of
from snnconv.training.settings import Fit

FIT = {"epochs": 3, "lr": 0.05, "batch_size": 8}


@pytest.fixture
def train(tiny_batches):
    return tiny_batches(32, 8, shuffle=True, augment=[RandomCrop(1)], seed=5)  # 4 steps an epoch


@pytest.fixture
def valid(tiny_batches):
    return tiny_batches(20, 8)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "ann.safetensors")


def assert_same_weights(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


# the learning rate


def rates(**options) -> list[float]:
    settings = Fit(**{**FIT, "epochs": 4, "lr": 1.0, **options})
    return [settings.lr_at(step, steps_per_epoch=2) for step in range(8)]


def test_cosine_falls_to_zero():
    assert rates() == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert rates()[4] == pytest.approx(0.5)


def test_constant_stays():
    assert rates(schedule="constant") == [1.0] * 8


def test_every_epoch_means_in_steps_of_an_epoch():
    assert rates(schedule_every="epoch") == pytest.approx([1, 1, 0.8536, 0.8536, 0.5, 0.5, 0.1464, 0.1464], abs=1e-4)


def test_warmup_rises_linearly_then_joins_the_schedule():
    assert rates(warmup_epochs=1, schedule="constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]
    assert rates(warmup_epochs=2)[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates(warmup_epochs=2)[4:] == pytest.approx(rates()[4:])
    assert rates(warmup_epochs=0.5)[0] == 1.0


# the optimizer


class Watched(Fit):
    """Its `watch` is called before (`False`) and after (`True`) every step of the optimizer."""


@pytest.fixture(autouse=True)
def watching(monkeypatch):
    """Optimizers of `Watched` settings have hooks."""

    def hooked(ann: nn.Module, settings: Fit) -> torch.optim.Optimizer:
        def call(after: bool) -> None:
            if isinstance(settings, Watched):
                settings.watch(optimizer, ann, after)

        optimizer = optimizer_of(ann, settings)
        optimizer.register_step_pre_hook(lambda *_: call(False))
        optimizer.register_step_post_hook(lambda *_: call(True))
        return optimizer

    monkeypatch.setattr(trainer, "optimizer_of", hooked)


def watched(watch, **options) -> Watched:
    settings = Watched(**{**FIT, **options})
    object.__setattr__(settings, "watch", watch)
    return settings


def test_groups_have_their_own_weight_decay(fresh_network):
    ann = fresh_network()
    optimizer = optimizer_of(ann, Fit(**FIT, weight_decay=0.3, threshold_weight_decay=0.2, norm_weight_decay=0.1))
    names = {id(parameter): name for name, parameter in ann.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {
        "0.weight": 0.3, "0.bias": 0.1, "1.weight": 0.1, "1.bias": 0.1, "2.theta": 0.2,
        "5.weight": 0.3, "5.bias": 0.1, "6.weight": 0.1, "6.bias": 0.1, "7.theta": 0.2, "9.weight": 0.3, "9.bias": 0.1,
    }  # fmt: skip
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_one_weight_decay_serves_all_as_in_the_papers(fresh_network):
    optimizer = optimizer_of(fresh_network(), Fit(**FIT, weight_decay=0.3))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}


def test_zero_weight_decay_is_not_taken_for_none(fresh_network):
    optimizer = optimizer_of(fresh_network(), Fit(**FIT, weight_decay=0.3, threshold_weight_decay=0.0))
    assert sorted({group["weight_decay"] for group in optimizer.param_groups}) == [0.0, 0.3]


def test_the_schedule_reaches_every_group(fresh_network, train, valid, open_tiny_run):
    seen = []
    settings = watched(
        lambda optimizer, ann, after: seen.append({group["lr"] for group in optimizer.param_groups}), warmup_epochs=1
    )
    fit(fresh_network(), train, valid, settings, open_tiny_run())
    assert seen[::2] == [{settings.lr_at(step, 4)} for step in range(12)]


@pytest.mark.parametrize("limit", [0.05, None])
def test_gradients_are_clipped_where_asked(fresh_network, train, valid, open_tiny_run, limit):
    norms = []

    def watch(optimizer, ann, after):
        norms.append(torch.stack([p.grad.norm() for p in ann.parameters()]).norm().item())

    fit(fresh_network(), train, valid, watched(watch, clip_grad_norm=limit), open_tiny_run())
    assert max(norms) <= limit * 1.0001 if limit else max(norms) > 0.05


def test_label_smoothing_changes_the_loss(fresh_network, train, valid, open_tiny_run):
    losses = []
    for smoothing in (0.0, 0.2):
        run = open_tiny_run(f"run-{smoothing}")
        fit(fresh_network(), train, valid, Fit(**FIT, label_smoothing=smoothing), run)
        losses.append(files.read_lines(run.folder / "metrics.jsonl")[0]["loss"])
    assert losses[0] != losses[1]


# one step, against plain autograd

ONE_STEP = {"epochs": 1, "lr": 0.5, "batch_size": 8, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


class InPlace(nn.Module):
    """Changes an activation's output where it lies."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(1, 4, 3, padding=1), QCFS(4, 1.0)
        self.conv2, self.act2 = nn.Conv2d(4, 4, 3, padding=1), QCFS(4, 1.0)
        self.fc, self.kind = nn.Linear(64, 2), kind

    def forward(self, x):
        x = self.act1(self.conv1(x))
        if self.kind == "sum":
            x += 0.5
        if self.kind == "product":
            x.mul_(1.5)
        if self.kind == "dropout":
            x = nn.functional.hardtanh(x, 0.0, 0.5, inplace=True)
        return self.fc(self.act2(self.conv2(x)).flatten(1))


@pytest.mark.parametrize("network", ["plain", "residual", "sum", "product", "dropout"])
def test_a_step_is_a_step_of_plain_gradient_descent(network, fresh_network, tiny_batches, open_tiny_run):
    """Whatever training does to save memory, the gradients are those of autograd."""
    torch.manual_seed(0)
    ann = fresh_network(network) if network in ("plain", "residual") else InPlace(network)
    for module in ann.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected, batches = copy.deepcopy(ann).train(), tiny_batches(8, 8, shuffle=True)
    ((images, labels),) = batches
    nn.functional.cross_entropy(expected(images), labels).backward()
    fit(ann, batches, tiny_batches(4, 4), Fit(**ONE_STEP, select="last"), open_tiny_run())
    trained = dict(ann.named_parameters())
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(trained[name], parameter - 0.5 * parameter.grad, rtol=1e-6, atol=1e-7, msg=name)


# what is kept


def scripted(monkeypatch, accuracies: list[float]) -> None:
    """Validation accuracies as if they had been measured."""
    script = iter(accuracies)
    monkeypatch.setattr(training, "accuracy", lambda network, batches, task: next(script))


def trace_weights(seen: list) -> Watched:
    return watched(lambda optimizer, ann, after: after and seen.append(_copy(ann)), epochs=4)


def _copy(ann: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in ann.state_dict().items()}


@pytest.mark.parametrize(
    ("select", "accuracies", "epoch"),
    [("best", [0.5, 0.9, 0.9, 0.7], 2), ("best", [0.1, 0.2, 0.3, 0.4], 4), ("last", [0.5, 0.9, 0.8, 0.7], 4)],
)
def test_the_selected_epoch_is_kept(fresh_network, train, valid, open_tiny_run, monkeypatch, select, accuracies, epoch):
    scripted(monkeypatch, accuracies)
    run, ann, steps = open_tiny_run(), fresh_network(), []
    settings = trace_weights(steps)
    object.__setattr__(settings, "select", select)
    fit(ann, train, valid, settings, run)
    assert_same_weights(_copy(ann), steps[4 * epoch - 1])
    assert not ann.training
    description = files.read_json(run.folder / "ann.json")
    assert (description["epoch"], description["valid_accuracy"]) == (epoch, accuracies[epoch - 1])


def test_every_epoch_leaves_a_line(fresh_network, train, valid, open_tiny_run):
    run = open_tiny_run()
    fit(fresh_network(), train, valid, Fit(**FIT), run)
    rows = files.read_lines(run.folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert set(rows[0]) == {"epoch", "loss", "train_accuracy", "valid_accuracy", "lr", "seconds", "thresholds"}
    assert rows[-1]["seconds"] == pytest.approx(run.seconds["train"], abs=1e-3)


def test_training_learns(fresh_network, train, valid, open_tiny_run):
    ann, run = fresh_network(), open_tiny_run()
    fit(ann, train, valid, Fit(epochs=8, lr=0.1, batch_size=8), run)
    assert training.accuracy(ann, valid) == files.read_json(run.folder / "ann.json")["valid_accuracy"] == 1.0


def test_ema_keeps_the_moving_average(fresh_network, train, valid, open_tiny_run):
    """a ← 0.8·a + 0.2·w after every step, from the weights after the first; also of the running statistics."""
    steps, run = [], open_tiny_run()
    settings = trace_weights(steps)
    for name, value in (("ema", 0.8), ("select", "last")):
        object.__setattr__(settings, name, value)
    fit(fresh_network(), train, valid, settings, run)
    average = steps[0]
    for step in steps[1:]:
        average = {name: 0.8 * average[name] + 0.2 * tensor for name, tensor in step.items()}
    kept = weights(run)
    for name, tensor in average.items():
        if "num_batches" not in name:
            torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(kept["9.weight"], steps[-1]["9.weight"])


# what goes wrong


class Exploding(Fit):
    """Fine until `bad`, a step counted from 0; then far too fast."""

    bad = 10

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        return math.inf if step >= self.bad else 0.05


@pytest.mark.parametrize("bad", [8, 9, 11], ids=["first step of epoch 3", "in epoch 3", "last step of epoch 3"])
@pytest.mark.parametrize("select", ["best", "last"])
def test_a_loss_that_is_not_finite_stops_and_loses_nothing(
    fresh_network, train, valid, open_tiny_run, monkeypatch, bad, select
):
    monkeypatch.setattr(Exploding, "bad", bad)
    run = open_tiny_run()
    with pytest.raises(TrainingError, match="not finite in epoch 3") as error:
        fit(fresh_network(), train, valid, Exploding(**{**FIT, "epochs": 4}, select=select), run)
    assert "step" in str(error.value)
    assert "fit.lr" in str(error.value)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    assert checkpoint.load_state(run.folder / "last.ckpt")["epoch"] == 2
    assert [row["epoch"] for row in files.read_lines(run.folder / "metrics.jsonl")] == [0, 1]
    good = open_tiny_run("good")
    fit(fresh_network(), train, valid, Exploding(**{**FIT, "epochs": 2}, select=select), good)
    assert_same_weights(weights(run), weights(good))


WRONG = {
    "epochs": [-1, 1.5, True, "3"], "lr": [0, -0.1, math.nan, math.inf, 10**400, "fast"], "batch_size": [0, 2.5],
    "momentum": [1.0, -0.1], "weight_decay": [-1e-4, math.nan], "threshold_weight_decay": [-1.0], "norm_weight_decay": [-1.0],
    "schedule": ["step", None], "schedule_every": ["batch"], "warmup_epochs": [-1, 4], "label_smoothing": [1.0, -0.1],
    "clip_grad_norm": [0.0, -1.0], "save_every": [0, None], "ema": [1.0, -0.5], "select": ["first"], "channels_last": ["yes", 1],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_setting_that_makes_no_sense_is_named(name, value, unchecked):
    with pytest.raises(ValueError, match=f"fit.{name}="):
        Fit(**{**FIT, name: value})


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match=r"fit.nesterov"):
        Fit(**FIT, nesterov=True, momentum=0.0)


# interruptions


class Interrupted(Run):
    """A run that is killed in its second epoch, at one of several bad moments."""

    moment = ""

    def save_ann(self, ann, facts):
        if self.moment == "before the network is saved" and facts["epoch"] == 2:
            raise KeyboardInterrupt
        super().save_ann(ann, facts)

    def log(self, metrics):
        if self.moment == "after the network is saved" and metrics["epoch"] == 1:
            raise KeyboardInterrupt
        super().log(metrics)

    def save_state(self, state):
        if self.moment == "before the state is saved" and state["epoch"] == 2:
            raise KeyboardInterrupt
        super().save_state(state)
        if self.moment == "after the epoch" and state["epoch"] == 2:
            raise KeyboardInterrupt
        if self.moment == "before the first epoch" and state["epoch"] == 0:
            raise KeyboardInterrupt


def interrupt_at_step(number: int):
    """A watch that interrupts after so many steps of the optimizer."""
    steps = []

    def watch(optimizer, ann, after):
        steps.append(after)
        if sum(steps) == number:
            raise KeyboardInterrupt

    return watch


MOMENTS = ("before the first epoch", "in the middle of an epoch", "before the network is saved",
           "after the network is saved", "before the state is saved", "after the epoch")  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("options", [{"select": "last"}, {"ema": 0.9, "warmup_epochs": 1}], ids=["last", "best, ema"])
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    fresh_network, train, valid, open_tiny_run, monkeypatch, moment, options
):
    """Bit for bit: weights, metrics and the chosen epoch, with dropout, augmentation and momentum."""
    settings = {**FIT, "epochs": 4, **options}
    whole, broken = open_tiny_run("whole"), open_tiny_run("broken", kind=Interrupted)
    monkeypatch.setattr(Interrupted, "moment", moment)
    torch.manual_seed(7)
    fit(fresh_network(), train, valid, Fit(**settings), whole)

    torch.manual_seed(7)
    middle = watched(interrupt_at_step(6), **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(fresh_network(), train, valid, middle if "middle" in moment else Fit(**settings), broken)
    torch.manual_seed(99)  # another process has another state
    resumed = open_tiny_run("broken")
    ann = fresh_network()
    for parameter in ann.parameters():
        nn.init.constant_(parameter, 0.3)  # and other weights
    fit(ann, train, valid, Fit(**settings), resumed)

    assert_same_weights(weights(resumed), weights(whole))
    assert_same_weights(_copy(ann), weights(whole))
    rows = [
        [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in files.read_lines(run.folder / "metrics.jsonl")
        ]
        for run in (resumed, whole)
    ]
    assert rows[0] == rows[1]
    facts = [files.read_json(run.folder / "ann.json") for run in (resumed, whole)]
    assert [facts[0][key] for key in ("epoch", "valid_accuracy", "thresholds")] == [
        facts[1][key] for key in ("epoch", "valid_accuracy", "thresholds")
    ]


def test_states_can_be_saved_less_often(fresh_network, train, valid, open_tiny_run):
    """After epochs 2, 4 and 5 of 5; a kill costs the epochs since, and changes no number."""

    saved = []

    class Recording(Run):
        def save_state(self, state):
            super().save_state(state)
            saved.append(state["epoch"])

    settings = {**FIT, "epochs": 5, "save_every": 2}
    whole, broken = open_tiny_run("whole", kind=Recording), open_tiny_run("broken")
    torch.manual_seed(7)
    fit(fresh_network(), train, valid, Fit(**settings), whole)
    assert saved == [0, 2, 4, 5]
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        fit(fresh_network(), train, valid, watched(interrupt_at_step(4 * 3 + 1), **settings), broken)
    assert [row["epoch"] for row in files.read_lines(broken.folder / "metrics.jsonl")] == [0, 1, 2]
    fit(fresh_network(), train, valid, Fit(**settings), open_tiny_run("broken"))
    assert [row["epoch"] for row in files.read_lines(broken.folder / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert_same_weights(weights(broken), weights(whole))


def test_the_best_epoch_before_an_interruption_is_remembered(fresh_network, train, valid, open_tiny_run, monkeypatch):
    monkeypatch.setattr(Interrupted, "moment", "after the epoch")
    scripted(monkeypatch, [0.5, 0.9, 0.7, 0.8])
    with pytest.raises(KeyboardInterrupt):
        fit(fresh_network(), train, valid, Fit(**{**FIT, "epochs": 4}), open_tiny_run(kind=Interrupted))
    run, ann = open_tiny_run(), fresh_network()
    best = weights(run)
    fit(ann, train, valid, Fit(**{**FIT, "epochs": 4}), run)
    assert files.read_json(run.folder / "ann.json")["epoch"] == 2
    assert_same_weights(weights(run), best)
    assert_same_weights(_copy(ann), best)


def test_a_finished_run_that_is_resumed_stays_as_it_is(fresh_network, train, valid, open_tiny_run):
    run = open_tiny_run()
    fit(fresh_network(), train, valid, Fit(**FIT), run)
    before = weights(run)
    ann = fresh_network()
    fit(ann, train, valid, Fit(**FIT), open_tiny_run())
    assert_same_weights(_copy(ann), before)


def test_a_state_of_another_network_is_named(fresh_network, train, valid, open_tiny_run):
    with suppress(KeyboardInterrupt):
        fit(fresh_network(), train, valid, Fit(**FIT), open_tiny_run())
    with pytest.raises(ValueError, match=r"last.ckpt: belongs to another run"):
        fit(fresh_network("residual"), train, valid, Fit(**FIT), open_tiny_run())


# no training


def test_no_epochs_keep_the_given_network(open_tiny_run, fresh_network, train, valid):
    run, ann = open_tiny_run("kept", "model.weights=given.pt"), fresh_network()
    before = copy.deepcopy(ann.state_dict())
    for _ in range(2):  # the second time as after a kill
        fit(ann, train, valid, Fit(**{**FIT, "epochs": 0}), run)
        assert not ann.training
        assert_same_weights(ann.state_dict(), before)
        assert_same_weights(weights(run), before)
    assert run.best()["epoch"] == 0
    assert files.read_lines(run.folder / "metrics.jsonl") == []


def test_no_epochs_and_no_weights_is_a_mistake(compose_config):
    cfg = compose_config("fit=none")
    with pytest.raises(ValueError, match=r"fit.epochs=0 does not train the network, .* model.weights="):
        settle(cfg, ["fit=none"])
    assert settle(compose_config("fit=none", "model.weights=given.pt"), ["fit=none"]).model.weights == "given.pt"
