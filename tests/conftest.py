"""Shared by every test: checked shapes, composed configurations, tiny networks whose arithmetic is exact, tiny runs."""

# ruff: noqa: E402   (imports follow the hook)
import beartype
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

beartype.beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int serves as a float
install_import_hook("snnconv", "beartype.beartype")  # every annotated shape is checked; before snnconv is imported

import functools
import gc
import inspect
import pickle
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.fx
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import OmegaConf
from torch import nn

from networks import plain, residual
from snnconv.data.batches import Batches
from snnconv.nn.activations.qcfs import QCFS
from snnconv.runtime import launch
from snnconv.runtime.run import Run
from snnconv.runtime.tracking import Tracker
from snnconv.spiking.time_loop import TimeLoop

launch.register()
settings.register_profile("snnconv", deadline=None)  # a busy machine is no bug
settings.load_profile("snnconv")
torch.set_num_threads(1)  # tiny tensors; more threads only wait for each other
CONF = Path(__file__).parents[1] / "conf"


def options(group: str) -> list[str]:
    """The names one can choose in a folder of conf/, today's and tomorrow's."""
    return sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml"))


@pytest.fixture
def list_options():
    """list_options("activation") → the names in conf/activation/."""
    return options


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `any_method` runs once for every conf/method/*.yaml; likewise for the other folders.

    `any_relu_method`: those that convert networks of ReLU or QCFS, which all do but the ones for transformers.
    """
    if "any_relu_method" in metafunc.fixturenames:
        metafunc.parametrize("any_relu_method", [name for name in options("method") if name != "spikingjelly_sta"])
    for folder in CONF.iterdir():
        if f"any_{folder.name}" in metafunc.fixturenames:
            metafunc.parametrize(f"any_{folder.name}", options(folder.name))
    if "any_option" in metafunc.fixturenames:
        groups = [folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"]
        pairs = [f"{group}={option}" for group in sorted(groups) for option in options(group)]
        metafunc.parametrize("any_option", [pair for pair in pairs if pair != "sweep=wandb"])


def pytest_collection_finish() -> None:
    """The garbage collector leaves out the libraries, and looks less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_sessionfinish() -> None:
    """Everything is collected at the end; libraries that count their objects see none left."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Each test starts from the same seed in the repository's root, and leaves no configuration behind."""
    monkeypatch.chdir(CONF.parent)
    torch.manual_seed(0)
    yield
    HydraConfig.instance().cfg = None


def composed(overrides: tuple[str, ...], folder: Path = CONF):
    """Returns HydraConfig's content for `overrides`, and the rest of the configuration, pickled: the fastest copy."""
    with initialize_config_dir(str(folder), version_base="1.3", job_name="train"):
        whole = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(whole)
    return HydraConfig.instance().cfg, pickle.dumps(
        OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
    )


composed_once = functools.cache(composed)


@pytest.fixture
def compose_config():
    """compose_config("model=mlp", "levels=4") → what train.py would get from these arguments."""

    def make(*overrides: str, folder: Path = CONF):
        HydraConfig.instance().cfg, cfg = composed_once(overrides) if folder == CONF else composed(overrides, folder)
        return pickle.loads(cfg)

    return make


@contextmanager
def no_shape_checks():
    before = jaxtyping_config.jaxtyping_disable
    jaxtyping_config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping_config.update("jaxtyping_disable", before)


@pytest.fixture
def unchecked():
    """Lets a value of the wrong type through to the check that users without beartype meet."""
    with no_shape_checks():
        yield


torch.fx.Tracer.trace = no_shape_checks()(torch.fx.Tracer.trace)  # it feeds proxies, which have no shape
TimeLoop.simulate = torch.no_grad()(inspect.unwrap(TimeLoop.simulate))  # whose checks hide that it is a generator


@pytest.fixture
def make_exact():
    """make_exact(network, seed) → the same network, in eval mode, with weights k/8 and thresholds 2^k.

    Sums of such numbers have no rounding error, so they do not depend on the order in which a kernel adds.
    """

    def make(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)

        def draw(shape, low: int, high: int) -> torch.Tensor:
            return torch.randint(low, high + 1, shape, generator=generator)

        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eps = 0.0
                module.running_var.fill_(4.0)
                module.running_mean.copy_(draw(module.running_mean.shape, -4, 4) / 8)
            if hasattr(module, "set_threshold"):
                module.set_threshold(2.0 ** draw((), -1, 1).item())
            else:
                for weight in module.parameters(recurse=False):
                    weight.data = draw(weight.shape, -8, 8).to(weight.dtype) / 8
        return network.eval()

    return make


@pytest.fixture
def exact_network(make_exact):
    """exact_network("plain" | "residual", activation, seed) → a small network whose arithmetic has no rounding."""

    def make(kind: str = "plain", activation=lambda: QCFS(4), seed: int = 0) -> nn.Module:
        return make_exact({"plain": plain, "residual": residual}[kind](activation), seed)

    return make


@pytest.fixture
def fresh_network():
    """fresh_network() → a small untrained network with batch norm and dropout, the same at every call."""

    def make(kind: str = "plain") -> nn.Module:
        torch.manual_seed(0)
        return {"plain": plain, "residual": residual}[kind](lambda: QCFS(4, 1.0))

    return make


@pytest.fixture
def exact_images():
    """exact_images(n) → images [n, 1, 4, 4] of values k/8."""

    def make(count: int = 5, seed: int = 1) -> torch.Tensor:
        return torch.randint(-16, 17, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed)) / 8

    return make


@pytest.fixture
def tiny_batches():
    """tiny_batches(count, batch_size) → a learnable set: a bright top is class 0, a bright bottom class 1."""

    def make(count: int = 16, batch_size: int = 4, **options):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(count) % 2
        images = torch.randint(0, 100, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label : 2 * label + 2] += 120
        return Batches(images, labels, batch_size, [0.5], [0.25], **options)

    return make


@pytest.fixture
def open_tiny_run(compose_config, tmp_path):
    """open_tiny_run("folder") → a Run in a temporary folder; `kind` lets a test watch or disturb it."""

    def make(name: str = "run", *overrides: str, kind: type[Run] = Run) -> Run:
        cfg = compose_config("model=mlp", "data=synthetic", "data.input_shape=[1,4,4]", "model.hidden=[8]",
                             "data.num_classes=2", "track=none", "device=cpu", *overrides)  # fmt: skip
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        return kind(tmp_path / name, cfg, Tracker())

    return make
