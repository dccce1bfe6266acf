"""torchvision's trained weights: the same function under our names, or an error that says which network would take them."""

import logging
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torchvision import models

from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.nn.models.resnet import resnet18, resnet34
from snnconv.nn.models.vgg import vgg11
from snnconv.runtime.torchvision_weights import MODELS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of torchvision's, and no network."""

    def refuse(*arguments, **options):
        raise URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def randomized(network: nn.Module) -> nn.Module:
    """Every number of the network drawn anew, the statistics of its batch norms too."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            fan = tensor[0].numel() if tensor.dim() > 1 else 1
            low, high = (0.5, 1.5) if name.endswith("running_var") else (-1.0, 1.0)
            tensor.uniform_(low, high).mul_(fan**-0.5)
    return network.eval()


def published(network: nn.Module, name: str, cache: Path) -> str:
    """`network` in the cache, in the place of the weights that torchvision calls `name`."""
    torch.save(network.state_dict(), cache / Path(models.get_weight(name).url).name)
    return f"torchvision:{name}"


@pytest.fixture
def publish_shapes(monkeypatch):
    """publish_shapes(lambda: network, name) → the source of weights that have names and shapes, but no numbers."""

    def make(build, name: str) -> str:
        with torch.device("meta"):
            weights = build().state_dict()
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **options: weights)
        return f"torchvision:{name}"

    return make


def small_vgg11(num_classes: int = 10) -> nn.Module:
    """torchvision's for images of 32×32: its pooling to 7×7 would enlarge them."""
    with torch.device("meta"):
        network = models.vgg11_bn(num_classes=num_classes, init_weights=False)
        network.avgpool, network.classifier[0] = nn.Identity(), nn.Linear(512, 4096)
    return randomized(network.to_empty(device="cpu"))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# the same function


@pytest.mark.parametrize(
    ("theirs", "ours", "name"),
    [
        (models.resnet18, resnet18, "ResNet18_Weights.IMAGENET1K_V1"),
        (models.resnet34, resnet34, "ResNet34_Weights.DEFAULT"),
    ],
)
def test_resnet_computes_what_torchvisions_does(cache, theirs, ours, name):
    network = randomized(theirs(num_classes=10))
    ann = ours(10, (3, 64, 64), ReLU, stem="imagenet", weights=published(network, name, cache)).eval()
    images = torch.randn(2, 3, 64, 64)
    assert network(images).std() > 0
    same(ann(images), network(images))


def test_vgg_computes_what_torchvisions_does_but_for_its_pooling(cache, caplog):
    network = small_vgg11()
    with caplog.at_level(logging.WARNING):
        ann = vgg11(10, (3, 32, 32), ReLU, weights=published(network, "VGG11_BN_Weights.IMAGENET1K_V1", cache)).eval()
    assert "VGG11_BN_Weights.IMAGENET1K_V1 were trained with max pooling" in caplog.text
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(ann(images), network(images))
    same(replace_modules(ann, nn.AvgPool2d, lambda _: nn.MaxPool2d(2))(images), network(images))


def test_thresholds_are_left_to_calibration(cache, compose_config):
    source = published(randomized(models.resnet18()), "ResNet18_Weights.IMAGENET1K_V1", cache)
    ann = instantiate(compose_config("model=resnet18_imagenet", "data=imagenet", f"model.weights={source}").model)
    assert all(module.threshold.isnan() for module in ann.modules() if isinstance(module, QCFS))


def test_torchvisions_own_network_keeps_its_names(cache, compose_config, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torchvision import models\n\ndef make(num_classes):\n    return models.resnet18(num_classes=num_classes)\n"
    )
    network = randomized(models.resnet18(num_classes=10))
    source = published(network, "ResNet18_Weights.IMAGENET1K_V1", cache)
    settings = ("model=custom", f"model.path='{mine}'", "model.name=make", "data.input_shape=[3,64,64]")
    images = torch.randn(1, 3, 64, 64)
    relu = instantiate(compose_config(*settings, "activation=relu", f"model.weights={source}").model).eval()
    same(relu(images), network(images))


@pytest.mark.parametrize(("kind", "model"), MODELS.items(), ids=MODELS)
def test_every_architecture_fits(publish_shapes, compose_config, kind, model):
    """By names and shapes, of all of ImageNet's classes at 224×224."""
    theirs = getattr(models, kind.removesuffix("_Weights").lower())
    source = publish_shapes(lambda: theirs(init_weights=False) if "VGG" in kind else theirs(), f"{kind}.IMAGENET1K_V1")
    cfg = compose_config(f"model={model}", "data=imagenet", "activation=relu", f"model.weights={source}")
    with torch.device("meta"):
        instantiate(cfg.model)


# what does not fit

UNFIT = {
    "the small stem": (
        lambda source: resnet18(10, (3, 64, 64), ReLU, weights=source),
        r"shape: conv1\.weight is \[64, 3, 7, 7\], expected \[64, 3, 3, 3\]\n  they fit model=resnet18_imagenet with 1000 classes",
    ),
    "other classes": (
        lambda source: resnet18(7, (3, 64, 64), ReLU, stem="imagenet", weights=source),
        r"shape: fc\.weight is \[10, 512\], expected \[7, 512\].*\n.*\n  they fit",
    ),
    "another depth": (
        lambda source: resnet34(10, (3, 64, 64), ReLU, stem="imagenet", weights=source),
        r"missing: stages\.0\.2\.conv1\.weight",
    ),
}


@pytest.mark.parametrize(("build", "message"), UNFIT.values(), ids=UNFIT)
def test_what_differs_is_listed_with_the_model_that_fits(publish_shapes, build, message):
    source = publish_shapes(lambda: models.resnet18(num_classes=10), "ResNet18_Weights.IMAGENET1K_V1")
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(source)


def test_vgg_of_a_small_image_has_another_head(publish_shapes):
    source = publish_shapes(lambda: models.vgg11_bn(init_weights=False), "VGG11_BN_Weights.IMAGENET1K_V1")
    expected = (
        r"shape: classifier\.1\.weight is \[4096, 25088\], expected \[4096, 512\](?s:.)*they fit model=vgg11 .*224"
    )
    with pytest.raises(ValueError, match=expected), torch.device("meta"):
        vgg11(1000, (3, 32, 32), ReLU, weights=source)


def test_an_architecture_that_is_not_here_is_told(publish_shapes):
    source = publish_shapes(models.resnet50, "ResNet50_Weights.IMAGENET1K_V2")
    expected = r"unknown: layer1\.0\.conv1\.weight(?s:.)*no model of snnconv.*resnet18_imagenet.*model=torchvision"
    with pytest.raises(ValueError, match=expected), torch.device("meta"):
        resnet34(1000, (3, 64, 64), ReLU, stem="imagenet", weights=source)


@pytest.mark.parametrize("name", ["ResNet34", "ResNet34_Weights.IMAGENET1K_V9", "ResNet35_Weights.DEFAULT", ""])
def test_an_unknown_name_is_answered_with_known_ones(name):
    with pytest.raises(
        ValueError, match=rf"torchvision:{name}: .* no weights of this name.*ResNet34_Weights\.IMAGENET1K_V1"
    ):
        resnet18(10, (3, 64, 64), ReLU, stem="imagenet", weights=f"torchvision:{name}")


def test_without_a_network_it_says_what_to_put_where(cache):
    url = models.ResNet18_Weights.IMAGENET1K_V1.url
    with pytest.raises(FileNotFoundError, match=r"the download failed \(.*no network here") as error:
        resnet18(10, (3, 64, 64), ReLU, stem="imagenet", weights="torchvision:ResNet18_Weights.IMAGENET1K_V1")
    assert f"download {url} on a machine with internet access and copy it to {cache / Path(url).name}" in str(
        error.value
    )


class Intruder:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("content", [b"", b"rubbish", "intruder"])
def test_a_damaged_file_in_the_cache_is_named_and_not_run(cache, tmp_path, content):
    file = cache / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    mark = tmp_path / "intruded"
    torch.save({"w": Intruder(mark)}, file) if content == "intruder" else file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{file}: damaged \(.*\); remove it to download it again"):
        resnet18(10, (3, 64, 64), ReLU, stem="imagenet", weights="torchvision:ResNet18_Weights.IMAGENET1K_V1")
    assert not mark.exists()
