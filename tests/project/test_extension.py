"""A new activation, model, data set and method: each one file and one yaml, and everything else works with them."""

import json
import shutil
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from hydra.utils import instantiate

from snnconv.results.report import report
from snnconv.runtime.checkpoint import load_ann
from snnconv.runtime.run import Run
from snnconv.runtime.tracking import Tracker
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.measured import measured
from snnconv.spiking.tasks import CLASSIFY
from snnconv.training.loop import fit

FILES = {
    "toy/ceiling.py": """
        import torch
        from torch import nn

        class Ceiling(nn.Module):
            '''min(max(x, 0), θ), θ learned.'''
            levels = None

            def __init__(self, threshold):
                super().__init__()
                self.bound = nn.Parameter(torch.tensor(threshold))

            @property
            def threshold(self):
                return self.bound.abs() + 0.01

            def set_threshold(self, value):
                if not 0 < value < float("inf"):
                    raise ValueError(f"threshold={value}")
                self.bound.data.fill_(value - 0.01)

            def forward(self, x):
                return torch.minimum(x.clamp_min(0), self.threshold)
    """,
    "toy/net.py": """
        from torch import nn

        def net(num_classes, activation, width):
            return nn.Sequential(nn.Flatten(), nn.Linear(16, width), activation(), nn.Linear(width, num_classes))
    """,
    "toy/stripes.py": """
        import torch
        from snnconv.data.splits import cut

        def stripes(count, **options):
            '''Vertical or horizontal.'''
            labels = torch.arange(count) % 2
            images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
            images[labels == 0, :, ::2] = 200
            images[labels == 1, :, :, ::2] = 200
            images += torch.randint(0, 50, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            return cut("stripes", (images, labels), (images[:20], labels[:20]), **options)
    """,
    "toy/patient.py": """
        from snnconv.spiking.latency import Latency
        from snnconv.spiking.model import SpikingModel
        from snnconv.spiking.network import OverTime
        from snnconv.conversion.obstacles import require_convertible
        from snnconv.nn.graph.rewrite import replace_modules
        from toy.ceiling import Ceiling

        def convert(ann, batches, *, neuron, calibrated):
            '''Each Ceiling becomes a neuron; the first two steps do not count.'''
            require_convertible(ann, Ceiling)
            assert sum(len(labels) for _, labels in batches) == calibrated
            network = replace_modules(ann, Ceiling, lambda site: OverTime(neuron(threshold=site.threshold.item())))
            return SpikingModel(network, Latency(readout_from=3, needs_training="activation"))
    """,
    "conf/activation/ceiling.yaml": """
        _target_: toy.ceiling.Ceiling
        _partial_: true
        threshold: 1.0
    """,
    "conf/model/net.yaml": """
        _target_: toy.net.net
        num_classes: ${data.num_classes}
        activation: ${activation}
        width: 12
    """,
    "conf/data/stripes.yaml": """
        _target_: toy.stripes.stripes
        count: 120
        num_classes: 2
        input_shape: [1, 4, 4]
        mean: [0.5]
        std: [0.25]
        valid: 20
        calibration: 30
        batch_size: ${fit.batch_size}
        seed: ${seed}
        device: ${device}
    """,
    "conf/method/patient.yaml": """
        _target_: toy.patient.convert
        _partial_: true
        neuron: ${neuron}
        calibrated: ${data.calibration}
    """,
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A copy of conf/ with four more yaml files, and a package with four more files."""
    shutil.copytree(Path(__file__).parents[2] / "conf", tmp_path / "conf")
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name == "toy" or name.startswith("toy.")]:
        del sys.modules[name]


def test_new_pieces_train_convert_and_evaluate(toy, compose_config):
    cfg = compose_config("activation=ceiling", "model=net", "data=stripes", "method=patient", "track=none", "device=cpu",
                         "fit.epochs=3", "fit.batch_size=16", "timesteps=12", folder=toy / "conf")  # fmt: skip
    run = Run(toy, cfg, Tracker())
    data, ann, convert = instantiate(cfg.data), instantiate(cfg.model), instantiate(cfg.method)
    fit(ann, data.train, data.valid, instantiate(cfg.fit), run)
    snn = convert(ann, data.calibration)
    curve = accuracy_over_time(snn, data.test, cfg.timesteps)
    report(run, snn, curve, measured(ann, data.test, CLASSIFY))

    result = json.loads((toy / "result.json").read_text())
    assert result["ann_accuracy"] == 1.0
    assert result["snn_accuracy"]["12"] == 1.0
    assert (result["model"], result["data"], result["method"]) == ("net", "stripes", "patient")
    assert result["latency"]["readout_from"] == 3
    images = next(iter(data.test))[0]
    with pytest.raises(ValueError, match=r"toy\.net\.net.*trust"):
        load_ann(toy)
    assert torch.equal(load_ann(toy, trust=["toy"])(images), ann(images))


def test_new_pieces_are_refused_where_they_do_not_fit(toy, compose_config):
    """QCFS's method says which activation it found and which it takes."""
    cfg = compose_config("activation=ceiling", "model=net", "data=stripes", "device=cpu", folder=toy / "conf")
    with pytest.raises(ValueError, match="has no QCFS: nothing to convert"):
        instantiate(cfg.method)(instantiate(cfg.model), [])
    cfg = compose_config("model=net", "method=patient", "data=stripes", "device=cpu", folder=toy / "conf")
    with pytest.raises(ValueError, match="has no Ceiling: nothing to convert"):
        instantiate(cfg.method)(instantiate(cfg.model), [])
