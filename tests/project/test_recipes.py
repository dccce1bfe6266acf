"""Recipes: what the papers' settings say, the augmentation they use, and choosing the epoch on the test set by name."""

import copy
import json
import logging
from collections import Counter

import pytest
import torch
from hydra.utils import instantiate
from torchvision.transforms import v2

from snnconv.conversion.methods.qcfs import convert
from snnconv.data.augment import AutoAugment, EachImage
from snnconv.data.splits import cut
from snnconv.data.synthetic import synthetic
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.qcfs_floor_first import QCFSFloorFirst
from snnconv.nn.models.mlp import mlp
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.training.loop import fit
from snnconv.training.optimizers import optimizer_of
from snnconv.training.settings import Fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, size: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=generator(7), dtype=torch.uint8)


# the settings, as the field notes record them

PAPERS = {  # model, levels, lr, steps of augmentation
    "cifar10_vgg16_qcfs": ("vgg16", 4, 0.1),
    "cifar10_resnet18_qcfs": ("resnet18", 4, 0.1),
    "cifar10_resnet20_qcfs": ("resnet20", 8, 0.1),
    "cifar100_vgg16_qcfs": ("vgg16", 4, 0.05),
    "cifar100_resnet18_qcfs": ("resnet18", 4, 0.05),
    "cifar100_resnet20_qcfs": ("resnet20", 8, 0.05),
}
AUGMENTATION = ["RandomCrop", "RandomFlip", "AutoAugment", "Cutout"]


def steps(cfg) -> list[str]:
    return [step._target_.rpartition(".")[2] for step in cfg.data.augment]


@pytest.mark.parametrize(
    ("recipe", "model", "levels", "lr"), [(name, *rest) for name, rest in PAPERS.items()], ids=PAPERS
)
def test_the_papers_settings(compose_config, recipe, model, levels, lr):
    cfg = compose_config(f"experiment={recipe}")
    assert (cfg.names.model, cfg.names.data, cfg.levels) == (model, recipe.split("_")[0], levels)
    assert (cfg.activation._target_.rpartition(".")[2], cfg.activation.threshold) == ("QCFS", 8.0)
    assert steps(cfg) == AUGMENTATION
    assert list(cfg.data.augment[3].fill) == list(cfg.data.mean)
    settings = instantiate(cfg.fit)
    assert (settings.epochs, settings.batch_size, settings.lr, settings.momentum) == (300, 300, lr, 0.9)
    assert (settings.warmup_epochs, settings.nesterov, settings.ema, settings.label_smoothing) == (0, False, None, 0.0)
    groups = optimizer_of(mlp(3, (1, 4, 4), lambda: QCFS(4)), settings).param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4] * 3  # weights, thresholds, norms
    assert settings.select == "best"


def test_the_cosine_steps_once_an_epoch(compose_config):
    settings = instantiate(compose_config("experiment=cifar10_vgg16_qcfs").fit)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer := torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), T_max=300
    )
    for epoch in range(300):
        assert settings.lr_at(epoch * 150, 150) == settings.lr_at(epoch * 150 + 149, 150)
        assert settings.lr_at(epoch * 150, 150) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("data", "augmentation"), [("cifar10", AUGMENTATION), ("cifar100", ["RandomCrop", "RandomFlip", "Cutout"])]
)
def test_the_older_recipe_differs(compose_config, data, augmentation):
    cfg = compose_config(f"experiment={data}_vgg16_qcfs_old")
    assert (cfg.fit.epochs, cfg.fit.batch_size, cfg.fit.lr) == (120, 128, 0.1)
    assert cfg.activation._target_.endswith("QCFSFloorFirst")
    assert steps(cfg) == augmentation


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_the_fast_recipe_takes_a_twentieth_of_the_epochs(compose_config, model):
    cfg, paper = (compose_config(f"experiment=cifar10_{model}_{recipe}") for recipe in ("fast", "qcfs"))
    assert (cfg.names.model, cfg.names.data, cfg.levels) == (model, "cifar10", paper.levels) == (model, "cifar10", 4)
    assert 20 * cfg.fit.epochs == paper.fit.epochs
    assert (cfg.precision, cfg.compile, cfg.method.simulate.precision) == ("bf16", True, "float32")
    assert cfg.model.activation.threshold == 2.0
    settings = instantiate(cfg.fit)
    assert settings.nesterov
    rates = [settings.lr_at(step, 10) for step in range(150)]
    assert rates.index(max(rates)) == 19  # two epochs up, and then down to nothing
    assert rates[-1] < 1e-3 * max(rates)
    assert compose_config(f"experiment=cifar10_{model}_fast", "precision=tf32", "compile=false").precision == "tf32"


# the older gradient


def literal_floor_first(x: float, theta: float, levels: int) -> tuple[float, float, float]:
    """MyFloor of the older repository, by hand: y, dy/dx, dy/dθ."""
    floored = float(torch.tensor(x * levels / theta + 0.5).floor()) / levels
    q = min(max(floored, 0.0), 1.0)
    passes = 0 <= floored <= 1
    return theta * q, float(passes), q - x / theta if passes else q


@pytest.mark.parametrize("levels", [1, 2, 4, 8])
@pytest.mark.parametrize("theta", [0.5, 2.0])
def test_the_older_gradient_against_the_literal_one(levels, theta):
    x = (torch.arange(-48, 97, dtype=torch.float64) / 32 * theta).requires_grad_()
    activation = QCFSFloorFirst(levels, theta).double()
    y = activation(x)
    expected = torch.tensor([literal_floor_first(v, theta, levels) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(y.detach(), expected[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(y.detach(), QCFS(levels, theta).double()(x).detach(), rtol=0, atol=0)
    weights = torch.randn(len(x), dtype=torch.float64)
    (y * weights).sum().backward()
    torch.testing.assert_close(x.grad, expected[:, 1] * weights)
    torch.testing.assert_close(activation.theta.grad, (expected[:, 2] * weights).sum())


def test_the_older_window_is_half_a_level_wider():
    def window(activation) -> tuple[float, float]:
        x = (torch.arange(-64, 193) / 64).requires_grad_()
        activation(x).sum().backward()
        passed = x.detach()[x.grad != 0]
        return passed.min().item(), passed.max().item()

    assert window(QCFS(4, 1.0)) == (0.0, 1.0)
    assert window(QCFSFloorFirst(4, 1.0)) == (-1 / 8, 1 + 1 / 8 - 1 / 64)  # the upper end is open


def test_the_older_activation_is_converted_and_rounds_halves(exact_network, exact_images):
    ann = exact_network("residual", lambda: QCFSFloorFirst(4))
    assert convert(ann, [], neuron=IntegrateFire)(exact_images(), timesteps=4).shape == (4, 5, 3)
    half = torch.linspace(-1, 2, 50).to(torch.bfloat16)
    activation = QCFSFloorFirst(4, 1.0)
    assert torch.equal(activation(half), QCFS(4, 1.0)(half))
    assert activation(half).dtype == torch.bfloat16


# augmentation


def test_each_image_is_drawn_on_its_own_and_torchs_generator_stays():
    seen = []
    step = EachImage(lambda image: (seen.append(torch.rand(1).item()), image)[1])
    state = torch.get_rng_state()
    assert torch.equal(step(pictures(), generator()), pictures())
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(seen)) == 6


def test_the_same_generator_gives_the_same_images():
    step, before = AutoAugment(), pictures(40)
    torch.rand(3)  # what torch's own generator did before does not matter
    one = step(before, generator(3))
    torch.rand(5)
    assert torch.equal(one, step(pictures(40), generator(3)))
    assert not torch.equal(one, step(pictures(40), generator(4)))
    assert (one.shape, one.dtype) == ((40, 3, 8, 8), torch.uint8)
    assert torch.equal(before, pictures(40))


POLICY = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128)
OPERATIONS = sorted(
    {
        (name, magnitude, sign)
        for pair in POLICY._policies
        for name, _, magnitude in pair
        for sign in ((1, -1) if POLICY._AUGMENTATION_SPACE[name][1] else (1,))
    },
    key=str,
)


@pytest.mark.parametrize(("name", "magnitude", "sign"), OPERATIONS)
def test_a_batch_gets_what_torchvision_gives_each_image(name, magnitude, sign, monkeypatch):
    """torchvision's own transform, made to draw this operation, on one image at a time."""
    side = iter([1.0 if sign > 0 else 0.0] * 16)
    single = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128)
    single._policies = [((name, 1.0, magnitude),)]
    batch = pictures(16, 32)
    result = AutoAugment().apply(batch, name, magnitude, sign)
    always = [torch.tensor(0.5)] if not POLICY._AUGMENTATION_SPACE[name][1] else None
    for before, after in zip(batch, result, strict=True):
        draws = iter(always or [torch.tensor(0.5), torch.tensor(next(side))])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda *size, draws=draws: next(draws))
            assert torch.equal(after, single(before))


def test_operations_are_drawn_as_often_as_the_policy_says():
    """Each pair for one image in 25, each of its operations with its probability, either sign for half."""
    count, expected = 20_000, Counter()
    for pair in POLICY._policies:
        for step, (name, probability, magnitude) in enumerate(pair):
            signs = (1, -1) if POLICY._AUGMENTATION_SPACE[name][1] else (1,)
            for sign in signs if probability else ():
                expected[step, name, magnitude, sign] += count / 25 * probability / len(signs)
    drawn = AutoAugment().draw(count, generator())
    assert drawn.keys() == expected.keys()
    assert all(abs(len(drawn[key]) - expected[key]) < 5 * expected[key] ** 0.5 for key in expected)
    assert all(len(set(chosen)) == len(chosen) for chosen in drawn.values())


def test_the_second_operation_follows_the_first(monkeypatch):
    step = AutoAugment()
    groups = {(0, "Invert", None, 1): [0, 2], (1, "Solarize", 5, 1): [1, 2]}
    monkeypatch.setattr(step, "draw", lambda count, generator: groups)
    before = pictures(4)
    inverted, solarized = 255 - before, [step.apply(part, "Solarize", 5, 1) for part in (before, 255 - before)]
    expected = [inverted[0], solarized[0][1], solarized[1][2], before[3]]
    assert torch.equal(step(before, generator()), torch.stack(expected))


def test_uncovered_pixels_are_grey():
    """A black image stays black wherever the policy does not move it, or invert it."""
    black = torch.zeros(300, 3, 8, 8, dtype=torch.uint8)
    values = AutoAugment()(black, generator()).unique().tolist()
    assert 128 in values


def test_a_recipes_augmentation_runs_in_its_order(compose_config):
    cfg = compose_config("experiment=cifar10_vgg16_qcfs")
    raw = (pictures(23, 32), torch.arange(23) % 3)
    splits = cut("test", raw, raw, mean=cfg.data.mean, std=cfg.data.std, augment=[instantiate(step) for step in cfg.data.augment],
                 num_classes=3, input_shape=[3, 32, 32], batch_size=5, valid=3, calibration=3, seed=0, device="cpu")  # fmt: skip
    splits.train.set_epoch(0)
    first = [images for images, _ in splits.train]
    assert all(images.isfinite().all() for images in first)
    holes = torch.cat(first).abs().amax(1) < 0.02  # mean colour, within half a grey level, in all three channels
    assert holes.flatten(1).sum(1).ge(8 * 8).all()  # a quarter of the square at least lies in the image
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, splits.train, strict=True))
    splits.train.set_epoch(1)
    assert not all(torch.equal(a, b) for a, (b, _) in zip(first, splits.train, strict=True))


# choosing the epoch


def make_data(valid: int):
    return synthetic(num_classes=2, input_shape=[1, 4, 4], train=60, test=20, noise=0.2, valid=valid, calibration=10,
                     mean=[0.5], std=[0.25], batch_size=10, seed=0, device="cpu")  # fmt: skip


def test_what_the_epoch_is_chosen_on():
    data = make_data(20)
    assert data.selecting("best") is data.selecting("last") is data.valid
    assert data.selecting("test") is data.test


def test_all_images_may_train():
    data = make_data(0)
    assert (data.train.count, data.valid.count, data.calibration.count) == (60, 0, 10)
    assert data.selecting("test") is data.test
    assert data.selecting("last").count == 0
    with pytest.raises(ValueError, match=r"data\.valid=0 leaves no images for fit\.select=best"):
        data.selecting("best")


@pytest.mark.parametrize("select", ["last", "test"])
@pytest.mark.parametrize("valid", [0, 20])
def test_every_record_says_on_what(open_tiny_run, caplog, select, valid):
    caplog.set_level(logging.INFO)
    run, data = open_tiny_run(), make_data(valid)
    ann = instantiate(run.cfg.model)
    fit(ann, data.train, data.selecting(select), Fit(epochs=2, lr=0.1, batch_size=10, select=select), run)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    named = {"test_accuracy"} if select == "test" else {"valid_accuracy"} if valid else set()
    best = json.loads((run.folder / "ann.json").read_text())
    for record in (*rows, best):
        assert {key for key in record if key in ("test_accuracy", "valid_accuracy")} == named
    if select == "last":
        assert best["epoch"] == 2
    assert ("chosen on the test set" in caplog.text) == (select == "test")


def test_chosen_on_test_is_the_best_on_test(open_tiny_run, monkeypatch):
    run, data = open_tiny_run(), make_data(20)
    scores = iter([0.3, 0.9, 0.5])
    monkeypatch.setattr(
        "snnconv.training.loop.accuracy", lambda network, batches, task: {id(data.test): next(scores)}[id(batches)]
    )
    fit(
        instantiate(run.cfg.model),
        data.train,
        data.selecting("test"),
        Fit(epochs=3, lr=0.1, batch_size=10, select="test"),
        run,
    )
    assert json.loads((run.folder / "ann.json").read_text())["test_accuracy"] == 0.9


def test_a_run_chosen_on_test_resumes(open_tiny_run):
    data, settings = make_data(0), Fit(epochs=3, lr=0.1, batch_size=10, select="test")
    whole = instantiate(open_tiny_run().cfg.model)
    start = copy.deepcopy(whole)
    fit(whole, data.train, data.test, settings, open_tiny_run("whole"))

    class Stopping(type(open_tiny_run())):
        def save_state(self, state):
            super().save_state(state)
            if state["epoch"] == 2:
                raise KeyboardInterrupt

    torch.manual_seed(1)
    parts = copy.deepcopy(start)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, data.train, data.test, settings, open_tiny_run("parts", kind=Stopping))
    fit(parts, data.train, data.test, settings, open_tiny_run("parts"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
