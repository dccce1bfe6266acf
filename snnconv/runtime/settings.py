"""Rules for the values of settings, with a description for error messages."""

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Rule = tuple[Callable[[Any], bool], str]  # whether a value is valid, and a description of valid values


def number(fits: Callable[[float], bool], words: str) -> Rule:
    """Rule: a finite number for which `fits` is true."""
    return lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max and fits(value), words


def one_of(*options: Any) -> Rule:
    """Rule: one of `options`."""
    return lambda value: value in options, " or ".join(map(str, options))


def or_null(rule: Rule) -> Rule:
    """Rule: None, or a value that `rule` permits."""
    return lambda value: value is None or rule[0](value), f"null or {rule[1]}"


COUNT: Rule = (lambda value: type(value) is int and value >= 1, "an integer of at least 1")
WHOLE: Rule = (lambda value: type(value) is int and value >= 0, "an integer of at least 0")
POSITIVE = number(lambda value: value > 0, "a positive number")
NOT_NEGATIVE = number(lambda value: value >= 0, "a number of at least 0")
FRACTION = number(lambda value: 0 <= value < 1, "a number of at least 0 and below 1")
SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
SWITCH: Rule = (lambda value: type(value) is bool, "true or false")


def require(settings: object, rules: Mapping[str, Rule], group: str) -> None:
    """Raise a ValueError naming the first attribute of `settings` that violates its rule, as a setting of `group`."""
    for name, (fits, words) in rules.items():
        if not fits(getattr(settings, name)):
            raise ValueError(f"{group}.{name}={getattr(settings, name)!r}: must be {words}")


def require_known(given: Iterable[str], names: Iterable[str], group: str) -> None:
    """Raise a ValueError with the nearest names if one of `given` is not in `names`, the settings of `group`."""
    options = list(names)
    for name in given:
        if name not in options:
            raise ValueError(f"{group}: has no setting {name!r}; {nearest(name, options)}")


def nearest(name: str, names: Iterable[str]) -> str:
    """Text that suggests names close to `name`, which is not one of `names`."""
    options = sorted(names)
    close = difflib.get_close_matches(name, options, 3, 0.5)
    return (
        f"did you mean {' or '.join(close)}?  There are {', '.join(options)}"
        if close
        else f"there are {', '.join(options)}"
    )
