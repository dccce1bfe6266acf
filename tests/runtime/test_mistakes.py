"""Command lines that cannot be composed are answered with what is wrong, and with words that would do."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, OverrideParseException

from snnconv.runtime import mistakes


def answer(typed: str) -> str:
    with pytest.raises(OverrideParseException) as caught:
        OverridesParser.create().parse_overrides([typed])
    return mistakes.message(caught.value, [typed])


def test_an_open_bracket_is_called_one():
    assert answer("timesteps=[1,2").startswith("timesteps=[1,2: a bracket is not closed")


@pytest.mark.parametrize("value", ["(x)", "a (copy).pt", "what's this", "$HOME (1)"])
def test_the_quotes_that_are_told_arrive(value):
    told = answer(f"model.weights={value}").rpartition("for the shell: ")[2]
    (word,) = shlex.split(told)
    assert OverridesParser.create().parse_overrides([word])[0].value() == value


def test_several_values_without_multirun():
    error = ConfigCompositionException("Ambiguous value for argument 'levels=4,8'\n1. To use it as a list, …")
    assert mistakes.message(error, ["levels=4,8"]) == (
        "levels=4,8: several values need -m (one run for each); write a list as 'levels=[4,8]'"
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--model=mlp", "--model=mlp: settings are written without dashes: model=mlp"),
        ("--fit.lr=0.1", "settings are written without dashes: fit.lr=0.1"),
        ("experiment=dmeo", "experiment=dmeo: no such option; did you mean demo"),
        ("sweep=level", "sweep=level: no such option; did you mean levels"),
        ("=3", "=3: expected key=value"),
    ],
)
def test_words_that_are_no_settings(typed, message):
    mistakes.require_words(
        ["model=mlp", "--multirun", "--config-dir=mine", "--cfg", "job", "run=runs/a=b", "~model", "experiment=mine"]
    )
    with pytest.raises(ValueError, match=message):
        mistakes.require_words(["model=mlp", typed])
