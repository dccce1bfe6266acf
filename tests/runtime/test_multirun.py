"""Command lines with several values."""

import pytest

from snnconv.runtime.multirun import as_sweep

SEVERAL = ["evaluate.py", "method=srp,cos"]


def test_several_values_or_a_sweep_make_one():
    assert as_sweep(SEVERAL) == [*SEVERAL, "--multirun"]
    assert as_sweep(["evaluate.py", "sweep=levels"])[-1] == "--multirun"
    for alone in (["method=srp", "method.warmup=4"], ["-m", "method=srp"], ["--cfg", "job", "method=srp,cos"]):
        assert as_sweep(["evaluate.py", *alone]) == ["evaluate.py", *alone]


@pytest.mark.parametrize("value", ["0.5", "[1,2]", "{a:1}", "true", "mse", "'a,b'", "${levels}", "'two words'"])
def test_a_setting_of_what_is_swept_over_is_swept_over_too(value):
    assert as_sweep([*SEVERAL, f"method.x={value}"]) == [*SEVERAL, f"method.x=choice({value})", "--multirun"]


@pytest.mark.parametrize("value", ["null", "", "'7'", "'true'", '"o\'brien"', "1,2", "range(3)"])
def test_what_would_not_arrive_as_it_was_meant_is_left_to_hydra(value):
    assert as_sweep([*SEVERAL, f"method.x={value}"]) == [*SEVERAL, f"method.x={value}", "--multirun"]


@pytest.mark.parametrize(
    "argument", ["fit.lr=0.1", "+method.x=1", "~method.x", "method@method.base=mse", "hydra.verbose=true"]
)
def test_other_settings_stay_as_they_are(argument):
    assert as_sweep([*SEVERAL, argument]) == [*SEVERAL, argument, "--multirun"]
