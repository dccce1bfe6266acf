"""Command lines with several values: adds Hydra's --multirun where it is needed."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import OverrideParseException


def as_sweep(arguments: list[str]) -> list[str]:
    """The command line, with --multirun if an override has several values (method=srp,cos) or names a sweep (sweep=…).

    With several methods on the command line, method.x=… applies to each of them: it is passed and recorded as method.x=choice(…),
    unless Hydra would change the value (null).  Hydra alone would apply it only to the default method.
    """
    modes = {
        "-m",
        "--multirun",
        "-c",
        "--cfg",
        "-i",
        "--info",
        "-h",
        "--help",
        "--hydra-help",
        "-sc",
        "--shell-completion",
    }
    overrides = {argument: _override(argument) for argument in arguments[1:]}
    several = {o.key_or_group for o in overrides.values() if o is not None and o.is_sweep_override()}
    arguments = [_for_each(argument, overrides.get(argument), several) for argument in arguments]
    named = any(o is not None and o.key_or_group == "sweep" for o in overrides.values())
    return arguments if modes & set(arguments) or not (several or named) else [*arguments, "--multirun"]


def _override(argument: str) -> Override | None:
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:  # an option of Hydra, or a mistake that Hydra reports
        return None
    return override


def _for_each(argument: str, override: Override | None, several: set[str]) -> str:
    """`argument` as a sweep over its single value, if it is a setting of a group in `several`."""
    group, dot, _ = (override.key_or_group if override else "").partition(".")
    if override is None or not dot or group not in several or override.type is not OverrideType.CHANGE:
        return argument
    each = f"{override.key_or_group}=choice({override.get_value_string()})"
    return (
        each if not override.is_sweep_override() and _handed_on(_override(each)) == repr(override.value()) else argument
    )


def _handed_on(override: Override | None) -> str | None:
    """The single value of a sweep as the run receives it, or None."""
    if override is None:
        return None
    arrived = _override(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
    return None if arrived is None else repr(arrived.value())
