"""Energy: every figure by hand, the laws between the three networks, and every table of costs."""

import io
import json
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console
from test_operations import fires_always

from snnconv.analysis.costs import TABLES, Costs, tables_of
from snnconv.analysis.energy import FIRST_LAYER, Energy
from snnconv.analysis.energy import energy as of
from snnconv.analysis.fan_out import Target
from snnconv.analysis.operations import Operations, count_operations
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.runtime.trust import require_trusted
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

PLAIN = Costs(mac=4.6, accumulate=0.9)
MEMORY = Costs(mac=5, accumulate=1, update=2, memory=0.5, weight_bits=8, activation_bits=8, potential_bits=16, reuse=2)


def counted(accumulates: dict[int, float], levels: int = 1, **steps) -> Operations:
    """A first layer of 100 MACs, 10 neurons, a second layer of 1000 MACs with a shortcut of 10 to its 20 neurons."""
    targets = (
        Target("one", macs=100, constant=100),
        Target("a", neurons=10),
        Target("two", macs=1000),
        Target("b", additions=10, neurons=20),
    )
    by_path = {t: {"one": 0.0, "a": 0.0, "two": count, "b": 5.0 * t} for t, count in accumulates.items()}
    each = {t: t for t in accumulates}
    return Operations(targets, by_path, steps.get("steps", each), steps.get("shown", each),
                      {t: t * levels for t in accumulates}, images=1)  # fmt: skip


def near(**expected):
    return {path: pytest.approx(value) for path, value in expected.items()}


# by hand


def test_arithmetic_alone():
    energy = Energy(counted({1: 200.0, 3: 700.0}), {"plain": PLAIN})
    assert energy.ann("plain") == near(one=460, a=0, two=4600, b=9)
    assert energy.quantized("plain", 1) == near(one=460, a=0, two=900, b=9)  # one bit: an addition
    assert energy.quantized("plain", 3) == near(one=460, a=0, two=1800, b=9)  # 0…3: two bits
    assert energy.snn("plain", 1) == near(one=460, a=0, two=180, b=4.5)
    assert energy.snn("plain", 3) == near(one=1380, a=0, two=630, b=13.5)


def test_a_first_layer_that_is_computed_once():
    energy = Energy(counted({3: 700.0}), {"plain": PLAIN}, first_layer="once")
    assert energy.snn("plain", 3)["one"] == pytest.approx(460)


def test_memory():
    """A bit costs 0.5 pJ and serves two operations: 0.25 pJ each."""
    energy = Energy(counted({3: 700.0}), {"memory": MEMORY})
    mac, accumulate, update = 5 + 0.25 * 16, 1 + 0.25 * (8 + 2 * 16), 2 + 0.25 * 2 * 16
    assert energy.ann("memory") == near(one=100 * mac, a=10 * 2, two=1000 * mac, b=10 * (1 + 2) + 20 * 2)
    small = 2 + 0.25 * (8 + 2)
    assert energy.quantized("memory", 3) == near(one=100 * mac, a=10 * 0.5, two=1000 * small, b=10 * 1.5 + 20 * 0.5)
    assert energy.snn("memory", 3) == near(
        one=300 * mac, a=30 * update, two=700 * accumulate, b=15 * accumulate + 60 * update
    )


def test_steps_that_are_spent_and_steps_that_show_the_image():
    """Five steps of which two show it: warm-up updates neurons, and only what is shown meets the first layer."""
    energy = Energy(counted({3: 0.0}, steps={3: 5}, shown={3: 2}), {"memory": MEMORY})
    assert energy.snn("memory", 3)["one"] == pytest.approx(200 * 9)
    assert energy.snn("memory", 3)["a"] == pytest.approx(10 * 5 * 10)


def test_weights_behind_weights_take_full_macs():
    operations = Operations((Target("w", macs=10, varying=10),), {4: {"w": 0.0}}, {4: 4}, {4: 4}, {4: 4}, 1)
    energy = Energy(operations, {"plain": PLAIN}, first_layer="once")
    assert energy.quantized("plain", 4) == near(w=46)
    assert energy.snn("plain", 4) == near(w=184)


@pytest.mark.parametrize(("levels", "t", "bits"), [(1, 1, 1), (1, 2, 2), (1, 3, 2), (1, 4, 3), (4, 2, 4), (1, 255, 8)])
def test_bits_of_the_quantized_network(levels, t, bits):
    """T steps of up to k spikes tell 0…kT apart."""
    assert Energy(counted({t: 1.0}, levels), {"plain": PLAIN}).bits(t) == bits


def test_until_when_the_snn_wins():
    """Of T = 1, 2, 4, 8 with bits 1, 2, 3, 4; first layers and shortcuts weigh nothing here."""
    operations = counted({1: 900.0, 2: 1900.0, 4: 3100.0, 8: 6000.0})
    energy = Energy(operations, {"plain": PLAIN}, "once")
    assert energy.wins_until("plain") == {"quantized": 2, "ann": 4}
    assert Energy(counted({1: 1100.0, 2: 9e3}), {"plain": PLAIN}).wins_until("plain") == {"quantized": None, "ann": 1}


# laws


@given(bits=st.integers(1, 64), mac=st.floats(0, 9), accumulate=st.floats(0, 9), memory=st.floats(0, 1))
def test_fewer_bits_never_cost_more(bits, mac, accumulate, memory):
    costs, target = Costs(mac, accumulate, memory=memory), Target("w", macs=7, additions=3, neurons=2)
    assert costs.of_ann(target, bits) <= costs.of_ann(target, bits + 1) <= costs.of_ann(target) * (1 + 1e-12)


def test_one_step_of_neurons_that_all_fire_is_the_network_of_one_bit(exact_network, exact_images):
    """Border and shortcut included; not where pooling multiplies what a spike reaches."""
    operations = count_operations(fires_always(exact_network("residual")), [(exact_images(2), None)], [1])
    energy = Energy(operations, {"plain": PLAIN})
    snn, quantized = energy.snn("plain", 1), energy.quantized("plain", 1)
    assert snn.pop("6") == pytest.approx(16 * quantized.pop("6"))
    assert snn == {path: pytest.approx(value) for path, value in quantized.items()}
    assert snn["3.conv1"] > 0
    assert snn["3.act2"] > 0


# tables of costs


def test_every_table_tells_where_its_numbers_come_from(compose_config, any_costs):
    """One yaml, one table of the same name."""
    tables = instantiate(compose_config(f"costs={any_costs}").costs, _convert_="all")
    assert list(tables) == [Path(any_costs).name]
    (table,) = tables.values()
    assert isinstance(table, Costs)
    assert table.source != "not stated"
    assert 0 < table.accumulate < table.mac


def test_a_run_has_every_table(compose_config, list_options):
    assert sorted(compose_config().costs) == list_options("costs")


def test_stored_runs_may_build_every_table(compose_config):
    require_trusted(OmegaConf.to_container(compose_config().costs), [])


def test_several_tables_are_chosen_by_name(compose_config):
    assert list(compose_config("costs=[int8_45nm,fp32_45nm]").costs) == ["int8_45nm", "fp32_45nm"]


def test_the_convention_of_the_field(compose_config):
    tables = compose_config().costs
    assert (tables.fp32_45nm.mac, tables.fp32_45nm.accumulate) == (4.6, 0.9)
    assert (tables.int8_45nm.mac, tables.int8_45nm.accumulate) == (0.23, 0.03)
    assert tables.fp32_45nm_sram.memory * 64 == tables.int8_45nm_sram.memory * 64 == 10


# what is shown


@pytest.fixture
def energy(exact_network, exact_images, compose_config) -> Energy:
    snn = qcfs(exact_network("residual"), [], neuron=IntegrateFire)
    return Energy(
        count_operations(snn, [(exact_images(3), None)], [1, 4]), instantiate(compose_config().costs, _convert_="all")
    )


def test_as_dict_adds_up_and_is_stamped(energy):
    found = json.loads(json.dumps(energy.as_dict()))
    assert found["what"] == "estimate in pJ for one image, not measured"
    assert found["rules"][0] == FIRST_LAYER["every_step"]
    assert found["bits"] == {"1": 1, "4": 3}
    for table in found["tables"].values():
        assert table["costs"]["source"]
        assert table["ann"] == pytest.approx(sum(table["layers"]["ann"].values()))
        for key in ("quantized", "snn"):
            assert table[key] == {t: pytest.approx(sum(each.values())) for t, each in table["layers"][key].items()}
            assert list(table[key]) == ["1", "4"]
        assert list(table["layers"]["snn"]["4"]) == list(found["operations"]["layers"])


def shown(table) -> str:
    console = Console(width=300, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_tables_show_microjoules(energy):
    text = shown(energy.as_table())
    assert "estimates in µJ for one image, counted on 3 images" in text
    assert f"{sum(energy.snn('int8_45nm', 4).values()) / 1e6:.4g}" in text
    wins = energy.wins_until("fp32_45nm")
    (row, *_) = (line for line in text.splitlines() if "SNN costs less" in line)
    assert [cell.strip() for cell in row.split("│")[4:6]] == [str(wins[key] or "never") for key in ("quantized", "ann")]
    assert "…" not in str(energy)
    assert max(map(len, str(energy).splitlines())) <= 80
    text = shown(energy.layer_table("fp32_45nm", 4))
    assert "estimates" in text
    assert f"{energy.snn('fp32_45nm', 4)['3.conv1'] / 1e6:.4g}" in text
    assert all(target.path in text for target in energy.operations.targets)


# mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("costs.fp32_45nm.mac=-1", r"mac=-1: must be a number of at least 0"),
        ("costs.fp32_45nm.accumulate=cheap", r"accumulate='cheap': must be a number"),
        ("+costs.fp32_45nm.memory=inf", r"memory=inf: must be a number"),
        ("costs.fp32_45nm_sram.reuse=0.5", r"reuse=0.5: must be at least 1"),
    ],
)
def test_costs_out_of_range_are_told(compose_config, override, message, unchecked):
    with pytest.raises(InstantiationException, match=message):
        instantiate(compose_config(override).costs, _convert_="all")


def test_settings_out_of_range_are_told():
    with pytest.raises(ValueError, match="first_layer='never': must be every_step or once"):
        Energy(counted({1: 1.0}), {"plain": PLAIN}, first_layer="never")
    with pytest.raises(ValueError, match=r"costs: no table; choose tables of conf/costs"):
        Energy(counted({1: 1.0}), {})


# the function for Python programs


def test_tables_of_python_and_of_the_yamls_are_equal(compose_config):
    assert instantiate(compose_config().costs, _convert_="all") == TABLES


def test_costs_are_given_by_name_by_value_or_by_mapping():
    assert tables_of("int8_45nm") == {"int8_45nm": TABLES["int8_45nm"]}
    assert list(tables_of(["int8_45nm", "fp32_45nm"])) == ["int8_45nm", "fp32_45nm"]
    assert tables_of(PLAIN) == {"costs": PLAIN}
    assert tables_of({"mine": PLAIN}) == {"mine": PLAIN}
    with pytest.raises(ValueError, match=r"no table 'fp16'; there are fp32_45nm, "):
        tables_of("fp16")
    for nothing in ([], {}):
        with pytest.raises(ValueError, match="costs: no table"):
            tables_of(nothing)


def test_the_function_counts_as_its_parts_do(exact_network, exact_images):
    ann = exact_network("residual")
    snn, images = qcfs(ann, [], neuron=IntegrateFire), exact_images(6)
    expected = Energy(count_operations(snn, [(images, None)], [1, 2, 4, 5]), tables_of("int8_45nm"), "once")
    for loader in ([(images[:4], None), (images[4:], None)], images, iter([images]), [[images, torch.zeros(6)]]):
        estimate = of(ann, snn, loader, 5, costs="int8_45nm", first_layer="once")
        assert estimate == expected
    assert "int8_45nm" in str(estimate)
    assert len(str(estimate).splitlines()[-2]) <= 100
    with pytest.raises(ValueError, match="model: has no activation at 2, but snn has neurons there"):
        of(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), snn, images)
