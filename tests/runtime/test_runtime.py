"""Seeds, device and precision, one process or many."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from snnconv.runtime import distributed, environment, opening, user_files
from snnconv.runtime.checkpoint import load_state, save_state
from snnconv.runtime.recipe import recipe
from snnconv.runtime.seed import derive, rng_state, seed_everything, set_rng_state

KEYS = st.tuples(*[st.integers(0, 2**32 - 1)] * 3)


def draw() -> tuple:
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_the_same_seed_gives_the_same_numbers():
    seed_everything(3)
    first = draw()
    seed_everything(4)
    other = draw()
    seed_everything(3)
    assert draw() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None])
def test_a_seed_is_a_whole_number(seed, unchecked):
    with pytest.raises(ValueError, match="seed="):
        seed_everything(seed)


def test_generators_go_on_where_they_stood(tmp_path):
    """Also through a file, and with a Gaussian that NumPy and Python keep in hand."""
    np.random.randn()
    random.gauss(0, 1)
    save_state(tmp_path / "rng", {"rng": rng_state()})
    expected = draw(), random.gauss(0, 1)
    seed_everything(9)
    set_rng_state(load_state(tmp_path / "rng")["rng"])
    assert (draw(), random.gauss(0, 1)) == expected


@given(keys=KEYS, other=KEYS)
def test_derived_seeds_depend_on_every_key(keys, other):
    assert 0 <= derive(*keys) < 2**63
    assert (derive(*keys) == derive(*other)) == (keys == other)


def test_derived_seeds_stay_what_they_are():
    """Another number here means that published runs cannot be repeated."""
    assert derive(0, 0) == 7896617691693857887
    assert derive(1, 2, 3) == 6498626229777268288


def test_the_device_is_one_that_is_here():
    assert environment.choose_device("cpu") == torch.device("cpu")
    assert environment.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device='tpu'"):
        environment.choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_told():
    with pytest.raises(ValueError, match="finds no CUDA device; use device=cpu"):
        environment.choose_device("cuda")


@pytest.mark.parametrize(("precision", "matmul"), [("float32", "highest"), ("bf16", "highest"), ("tf32", "high")])
def test_precision_is_a_named_setting(precision, matmul):
    environment.set_precision(precision)
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cudnn.benchmark == (precision != "float32")
    environment.set_precision("float32")


def test_the_commit_of_code_without_a_repository_is_what_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "snnconv" / "runtime" / "environment.py"))
    asked = environment.commit.__wrapped__
    assert asked() is None
    monkeypatch.setenv("SNNCONV_COMMIT", "0123456789ab")
    assert asked() == "0123456789ab"


def test_the_commit_is_that_of_the_first_question(monkeypatch, tmp_path):
    """A run reads the commit at its start; the checkout may have changed at its end."""
    first = environment.commit()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "snnconv" / "runtime" / "environment.py"))
    monkeypatch.setenv("SNNCONV_COMMIT", "0123456789ab")
    assert environment.commit() == first != "0123456789ab"


def test_a_run_asks_for_its_commit_before_it_begins(monkeypatch, tmp_path):
    """At its end the checkout may be another one."""
    order: list[str] = []
    hydra = OmegaConf.create(
        {"mode": None, "runtime": {"output_dir": str(tmp_path)}, "overrides": {"task": []}, "job": {"name": "train"}}
    )
    monkeypatch.setattr(opening.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(environment, "commit", lambda: order.append("commit"))
    monkeypatch.setattr(opening.stored_config, "settle", lambda cfg, _: (order.append("settle"), cfg)[1])
    monkeypatch.setattr(environment, "choose_device", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError), opening.open_run(OmegaConf.create({"resume": None, "device": "cpu"})):
        pass
    assert order == ["commit", "settle"]


def test_an_unknown_precision_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="precision='fp8': must be one of float32, tf32, bf16"):
        environment.set_precision("fp8")


def test_autocast_only_where_asked():
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with environment.autocast(torch.device("cpu"), "bf16"):
        assert layer(x).dtype == torch.bfloat16
    with environment.autocast(torch.device("cpu"), "float32"):
        assert layer(x).dtype == torch.float32


def test_versions_name_what_shapes_the_numbers():
    found = environment.versions()
    assert {"python", "snnconv", "torch", "spikingjelly"} <= set(found)
    assert found["torch"].startswith(torch.__version__.split("+")[0])


def test_one_process_is_all_of_them():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.sum_over_ranks(torch.tensor([3])).tolist() == [3]
    assert distributed.broadcast("x") == "x"


def test_torchrun_is_asked_before_the_group_exists(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (2, 4, False)


def test_paths_of_a_stored_configuration_are_those_of_today(tmp_path, monkeypatch):
    """Paths from the folder where the run was started, or relative to a moved run folder; otherwise as they were typed."""
    run = tmp_path / "work" / "runs" / "one"
    (run / ".hydra").mkdir(parents=True)
    hydra = {"hydra": {"runtime": {"cwd": str(tmp_path / "work"), "output_dir": str(run)}}}
    OmegaConf.save(OmegaConf.create(hydra), run / ".hydra" / "hydra.yaml")
    (tmp_path / "work" / "images").mkdir()
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")

    def located(root: str, run=run, *overrides: str) -> str:
        stored = OmegaConf.create({"data": {"root": root}, "fit": {"teacher": None}})
        user_files.locate_settings(stored, run, overrides)
        return stored.data.root

    assert located("images") == str(tmp_path / "work" / "images")
    assert located("gone") == "gone"
    assert located("images", run, "data.root=images") == "images"  # typed now
    assert located("/absolute") == "/absolute"
    monkeypatch.delenv("SNNCONV_DATA", raising=False)
    default = "${oc.env:SNNCONV_DATA,data}"
    assert located(default) == "data"  # there is one here
    (tmp_path / "elsewhere" / "data").rmdir()
    (tmp_path / "work" / "data").mkdir()
    assert located(default) == str(tmp_path / "work" / "data")
    (tmp_path / "work").rename(tmp_path / "moved")
    assert located("images", tmp_path / "moved" / "runs" / "one") == str(tmp_path / "moved/runs/one/../../images")


def test_the_recipe_of_a_compressed_network_does_not_name_the_folder_of_its_file(compose_config):
    cfg = compose_config("model=mlp", "data=synthetic")
    recipes = []
    for path in ("/a/net.py", "b/net.py", "/a/other.py"):
        inner = {"_target_": f"{user_files.USER_CODE}.custom", "path": path}
        cfg.model = OmegaConf.create({"_target_": "snnconv.hardware.compression.rebuild.rebuilt", "model": inner})
        recipes.append(recipe(cfg))
    assert recipes[0] == recipes[1] != recipes[2]
