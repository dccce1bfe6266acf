"""Rules for the values of settings, with the words of their error messages."""

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Rule = tuple[Callable[[Any], bool], str]  # does a value fit, and what would


def number(fits: Callable[[float], bool], words: str) -> Rule:
    """A finite number that fits."""
    return lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max and fits(value), words


def one_of(*options: Any) -> Rule:
    """One of the options."""
    return lambda value: value in options, " or ".join(map(str, options))


def or_null(rule: Rule) -> Rule:
    """As `rule` says, or None."""
    return lambda value: value is None or rule[0](value), f"null or {rule[1]}"


COUNT: Rule = (lambda value: type(value) is int and value >= 1, "an integer of at least 1")
WHOLE: Rule = (lambda value: type(value) is int and value >= 0, "an integer of at least 0")
POSITIVE = number(lambda value: value > 0, "a positive number")
NOT_NEGATIVE = number(lambda value: value >= 0, "a number of at least 0")
FRACTION = number(lambda value: 0 <= value < 1, "a number of at least 0 and below 1")
SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
SWITCH: Rule = (lambda value: type(value) is bool, "true or false")


def require(settings: object, rules: Mapping[str, Rule], group: str) -> None:
    """ValueError naming the first attribute of `settings` that breaks its rule, as a setting of `group`."""
    for name, (fits, words) in rules.items():
        if not fits(getattr(settings, name)):
            raise ValueError(f"{group}.{name}={getattr(settings, name)!r}: {words}")


def require_known(given: Iterable[str], names: Iterable[str], group: str) -> None:
    """ValueError with the nearest names if one of `given` is no setting of `group`, whose settings are `names`."""
    known = list(names)
    for name in given:
        if name not in known:
            raise ValueError(f"{group}: has no setting {name!r}; {nearest(name, known)}")


def nearest(name: str, names: Iterable[str]) -> str:
    """A suggestion in place of `name`, which is not among `names`."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, 3, 0.5)
    return (
        f"did you mean {' or '.join(close)}?  There are {', '.join(known)}"
        if close
        else f"there are {', '.join(known)}"
    )
