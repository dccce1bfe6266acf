"""The parts of `fit=airbench`, each against its formula."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import open_dict
from torch import nn

from snnconv.data.augment import AlternatingFlip, RandomCrop
from snnconv.data.batches import Batches
from snnconv.nn.activations.qcfs import QCFS
from snnconv.runtime import files
from snnconv.runtime.recipe import recipe
from snnconv.runtime.run import Run
from snnconv.training.initialization import dirac
from snnconv.training.lookahead import Lookahead
from snnconv.training.loop import fit
from snnconv.training.settings import Fit

FIT = {"epochs": 4, "lr": 0.1, "batch_size": 8}
NEW = ("dirac_init", "norm_bias_lr", "lookahead", "optimizer", "tune", "tune_precision")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), QCFS(4, 8.0), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Flatten(),
        nn.Linear(64, 2),
    )  # fmt: skip


# the network at the start


def test_dirac_passes_the_input_on():
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    random = conv.weight.detach().clone()
    dirac(nn.Sequential(conv))
    images = torch.randn(2, 3, 4, 4)
    assert conv(images)[:, :3].equal(images)
    assert conv.weight[3:].equal(random[3:])


def test_dirac_of_fewer_outputs_than_inputs_and_of_groups():
    narrow, grouped = nn.Conv2d(5, 3, 1, bias=False), nn.Conv2d(4, 4, 3, groups=2)
    before = grouped.weight.detach().clone()
    dirac(nn.Sequential(narrow, grouped))
    images = torch.randn(2, 5, 4, 4)
    assert narrow(images).equal(images[:, :3])
    assert grouped.weight.equal(before)


def test_a_training_starts_from_dirac_where_asked(tiny_batches, open_tiny_run):
    for asked in (True, False):
        ann, starts = network(), []
        ann.register_forward_pre_hook(lambda module, _, to=starts: to.append(module[0].weight[0].detach().clone()))
        fit(ann, tiny_batches(16, 8), tiny_batches(8, 8), Fit(**FIT, dirac_init=asked), open_tiny_run(f"run-{asked}"))
        wanted = torch.zeros(1, 3, 3)
        wanted[0, 1, 1] = 1
        assert starts[0].equal(wanted) == asked


# the learning rate


def test_linear_rises_and_falls_to_zero():
    settings = Fit(**FIT, schedule="linear", warmup_epochs=1)
    rates = [settings.lr_at(step, steps_per_epoch=2) / settings.lr for step in range(8)]
    assert rates == pytest.approx([1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    by_epoch = Fit(**FIT, schedule="linear", schedule_every="epoch")
    assert [by_epoch.lr_at(step, 2) / 0.1 for step in range(8)] == pytest.approx(
        [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    )


def test_biases_of_batch_norms_have_a_rate_of_their_own(tiny_batches, open_tiny_run):
    """The first step moves them k times as far, and their decay per step stays what it was."""
    moves = {}
    one_step = {**FIT, "epochs": 1, "momentum": 0.0, "schedule": "constant", "weight_decay": 0.2, "select": "last"}
    for scale in (None, 64):
        ann = network()
        nn.init.constant_(ann[1].bias, 0.5)
        before = copy.deepcopy(ann.state_dict())
        settings = Fit(**one_step, norm_bias_lr=scale)
        fit(ann, tiny_batches(8, 8), tiny_batches(8, 8), settings, open_tiny_run(f"run-{scale}"))
        moves[scale] = {name: ann.state_dict()[name] - before[name] for name in dict(ann.named_parameters())}
    decay = -0.1 * 0.2 * 0.5
    torch.testing.assert_close(moves[64]["1.bias"] - decay, 64 * (moves[None]["1.bias"] - decay), rtol=1e-4, atol=1e-5)
    for name in set(moves[64]) - {"1.bias"}:
        assert moves[64][name].equal(moves[None][name]), name


# lookahead


def test_lookahead_is_its_formula():
    ann = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        ann[0].weight.fill_(1.0)
    lookahead = Lookahead(ann, 2)
    slow = fast = 1.0
    for step in range(1, 6):
        fast += step
        with torch.no_grad():
            ann[0].weight += step
        lookahead.step(step, 5)
        if step in (2, 4, 5):
            decay = 0.95**2 * (step / 5) ** 3
            slow = fast = decay * slow + (1 - decay) * fast
        torch.testing.assert_close(ann[0].weight, torch.full((2, 2), fast))
    assert ann[1].num_batches_tracked.dtype == torch.int64


class Interrupted(Run):
    """A run that is killed after its second epoch."""

    def save_state(self, state):
        super().save_state(state)
        if state["epoch"] == 2:
            raise KeyboardInterrupt


def test_everything_resumes_to_the_same_numbers(tiny_batches, open_tiny_run):
    settings = Fit(**FIT, dirac_init=True, norm_bias_lr=64, lookahead=3, schedule="linear", warmup_epochs=1)
    train = tiny_batches(32, 8, shuffle=True, augment=[RandomCrop(1), AlternatingFlip()], seed=5)
    whole, resumed = network(), network()
    fit(whole, train, tiny_batches(8, 8), settings, open_tiny_run("whole"))
    with pytest.raises(KeyboardInterrupt):
        fit(network(), train, tiny_batches(8, 8), settings, open_tiny_run("broken", kind=Interrupted))
    fit(resumed, train, tiny_batches(8, 8), settings, open_tiny_run("broken"))
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name


# augmentation


def test_every_image_is_flipped_in_every_other_epoch():
    images = torch.arange(400 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(400, 1, 1, 3)
    batches = Batches(images, torch.arange(400), 100, [0.0], [1 / 255], shuffle=True, augment=[AlternatingFlip()])
    flipped = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        state = torch.zeros(400, dtype=torch.bool)
        for pixels, numbers in batches:
            for image, number in zip(pixels.round().to(torch.uint8), numbers, strict=True):
                original = images[number]
                assert image.equal(original) or image.equal(original.flip(-1))
                state[number] = not image.equal(original)
        flipped.append(state)
    assert flipped[0].equal(~flipped[1])
    assert flipped[0].equal(flipped[2])
    assert 150 < flipped[0].sum() < 250


# the recipe


def test_settings_at_their_defaults_leave_the_recipe_as_it_was(compose_config):
    """Networks keep their identity, which is made of the settings that trained them."""
    today = compose_config("model=mlp", "data=synthetic")
    before = copy.deepcopy(today)
    with open_dict(before):
        for name in NEW:
            before.fit.pop(name)
    assert recipe(today) == recipe(before)
    changed = {recipe(compose_config("model=mlp", "data=synthetic", f"fit.{part}"))
               for part in ("dirac_init=true", "norm_bias_lr=64", "lookahead=5", "schedule=linear", "optimizer=muon")}  # fmt: skip
    assert len(changed | {recipe(today)}) == 6
    assert recipe(compose_config("model=mlp", "data=synthetic", "fit.tune=none")) == recipe(today)


def test_airbench_trains(compose_config, tiny_batches, open_tiny_run):
    settings = instantiate(compose_config("fit=airbench", "fit.epochs=6").fit)
    run = open_tiny_run()
    fit(network(), tiny_batches(64, 8, shuffle=True), tiny_batches(20, 8), settings, run)
    rows = files.read_lines(run.folder / "metrics.jsonl")
    assert rows[-1]["train_accuracy"] > 0.8
