"""Configuration: every yaml composes and builds; a new one is tested without an edit here."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from torch import nn

from snnconv.cli import MAPPINGS, _completed
from snnconv.data.imagenet import cut_files
from snnconv.data.splits import cut
from snnconv.runtime.configurations import CONF
from snnconv.runtime.opening import explain
from snnconv.runtime.tracking import Tracker
from snnconv.runtime.trust import require_trusted
from snnconv.spiking.model import SpikingModel
from snnconv.training.settings import Fit

REPOSITORY = Path(__file__).parents[2]


def test_every_option_composes_without_a_loose_end(compose_config, any_option):
    """And its run can be loaded again without trusting more than the example's file."""
    cfg = compose_config(any_option)
    whole = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    require_trusted(whole, ["examples/akamaster_resnet.py"])


def test_the_default_is_a_run_on_bundled_data(compose_config):
    cfg = compose_config()
    assert (cfg.names.model, cfg.names.data, cfg.names.method) == ("resnet20", "digits", "qcfs")


def test_levels_and_timesteps_are_said_once(compose_config):
    """The activation takes L from the one key users type; nothing else decides it."""
    cfg = compose_config("levels=5", "seed=3", "data.num_classes=7", "fit.batch_size=11", "precision=bf16")
    assert cfg.activation.levels == cfg.model.activation.levels == 5
    assert (cfg.data.seed, cfg.model.num_classes, cfg.data.batch_size) == (3, 7, 11)
    assert cfg.method.simulate.precision == "bf16"


# everything builds


def test_every_activation_builds(compose_config, any_activation):
    assert isinstance(instantiate(compose_config(f"activation={any_activation}").activation)(), nn.Module)


def test_every_neuron_builds(compose_config, any_neuron):
    assert isinstance(instantiate(compose_config(f"neuron={any_neuron}").neuron)(threshold=1.0), nn.Module)


def test_every_method_builds(compose_config, any_method):
    convert = instantiate(compose_config(f"method={any_method}").method)
    assert "ann" in inspect.signature(convert).parameters


def test_every_fit_builds(compose_config, any_fit):
    settings = compose_config(f"fit={any_fit}").fit
    assert isinstance(instantiate(settings), Fit)
    assert settings._target_ == "snnconv.training.settings.Fit"  # enters the hash by which recipes are told apart
    require_trusted({"fit": OmegaConf.to_container(settings, resolve=True)})


def test_every_tracker_builds(compose_config, any_track):
    assert isinstance(instantiate(compose_config(f"track={any_track}").track), Tracker)


def test_every_simulation_builds(compose_config, any_simulate):

    simulate = instantiate(compose_config(f"simulate={any_simulate}").simulate)
    assert isinstance(SpikingModel(nn.Sequential(nn.Linear(2, 2)), simulation=simulate), SpikingModel)


def test_every_data_set_names_real_parameters(compose_config, any_data):
    """Its files may not be here, so the names are compared with those of the loader and of what it passes them on to."""
    data = compose_config(f"data={any_data}").data
    taken = inspect.signature(get_method(data._target_)).parameters
    passed_on = cut_files if ".imagenet." in data._target_ else cut
    known = {*taken, *(inspect.signature(passed_on).parameters if "options" in taken else ())}
    assert set(data) - {"_target_"} <= known | {"augment"}
    for step in (*data.get("augment", ()), *data.get("prepare", ())):
        instantiate(step)


# recipes and sweeps


def test_every_experiment_builds(compose_config, any_experiment):
    cfg = compose_config(
        f"experiment={any_experiment}", "data.input_shape=[1,8,8]", "data.num_classes=3", "model.weights=null"
    )
    assert isinstance(instantiate(cfg.model), nn.Module)
    assert isinstance(instantiate(cfg.fit), Fit)
    assert callable(instantiate(cfg.method))
    assert isinstance(cfg.timesteps, int)


def test_every_choice_of_a_sweep_composes(compose_config, any_sweep):
    if any_sweep == "wandb":
        return  # W&B's own format: the next test
    compose_config(f"sweep={any_sweep}")
    params = HydraConfig.get().sweeper.params
    assert params
    for key, values in params.items():
        (override,) = OverridesParser.create().parse_overrides([f"{key}={values}"])
        for choice in override.sweep_string_iterator() if override.is_sweep_override() else [values]:
            compose_config(f"sweep={any_sweep}", f"{key}={choice}")


def test_the_wandb_sweep_speaks_of_keys_that_exist(compose_config):
    sweep = yaml.safe_load((REPOSITORY / "conf" / "sweep" / "wandb.yaml").read_text())
    assert (REPOSITORY / sweep["program"]).is_file()
    assert "${args_no_hyphens}" in sweep["command"]  # Hydra's key=value, without dashes
    for key, space in sweep["parameters"].items():
        for value in space.get("values") or [space["min"], space["max"]]:
            cfg = compose_config(f"{key}={value}", "track=wandb")
            assert OmegaConf.select(cfg, key) == value
            instantiate(cfg.model)
            instantiate(cfg.fit)


# mistakes


def test_an_unknown_option_is_answered_with_the_known_ones(compose_config, list_options):
    with pytest.raises(ConfigCompositionException) as error:
        compose_config("model=vgg17")
    assert all(name in str(error.value) for name in list_options("model"))


def test_an_unknown_key_is_named(compose_config):
    with pytest.raises(ConfigCompositionException, match="epoch"):
        compose_config("fit.epoch=3")


def test_a_wrong_value_is_told_with_its_key(compose_config):
    cfg = compose_config("levels=0", "model=mlp")
    with pytest.raises(InstantiationException) as error:
        instantiate(cfg.model)
    assert explain(error.value).startswith("levels=0: must be an integer")


def test_every_setting_that_is_an_empty_mapping_takes_one_from_the_command_line():
    """They are listed, because Hydra would refuse the keys of `model.arguments={width: 8}`."""
    lines = [line for file in CONF.rglob("*.yaml") for line in file.read_text(encoding="utf-8").splitlines()]
    empty = {line.strip().partition(":")[0] for line in lines if re.match(r"\s*\w+: \{\}", line)}
    assert empty - {"metric", "costs", "stages"} == set(MAPPINGS)  # those are filled by groups
    words = _completed(
        "check", ["model=custom", "model.arguments={a: 1}", "x.ratios={layer3.*: 0.5}", "model.name={a: 1}"]
    )
    assert words == [
        "hydra.job.name=check",
        "model=custom",
        "++model.arguments={a: 1}",
        "++x.ratios={layer3.*: 0.5}",
        "model.name={a: 1}",
    ]
