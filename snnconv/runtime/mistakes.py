"""Messages for command lines that Hydra cannot compose: the wrong word, and similar correct words."""

import difflib
import re
from collections.abc import Iterable, Sequence

from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from snnconv.runtime import configurations, program

RESERVED = "${…} refers to another setting, so paths and names cannot contain ${; rename the file or folder"
OPTIONAL = ("experiment", "sweep")  # groups for which Hydra ignores an unknown option


def message(error: CompactHydraException | OmegaConfBaseException, overrides: Sequence[str]) -> str:
    """A message of one or two lines about a command line, without Hydra's advice to append with `+`."""
    if isinstance(error, OverrideParseException):
        return _grammar(error.override)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        return (
            f"{group}={option}: no such option{nearest(option, error.options)}; there are: {', '.join(error.options)}"
        )
    if isinstance(error, InterpolationKeyError) or "Interpolation key" in str(error):
        return reference(error, overrides)
    text = str(error)
    if match := re.match(r"Ambiguous value for argument '(.*)'", text):
        key, _, values = match[1].partition("=")
        return f"{match[1]}: several values need -m (one run for each); write a list as {program.word(f'{key}=[{values}]')}"
    if match := re.search(r"Could not override '([^']*)'|Could not find '([^']*)'|full_key: (\S+)", text):
        key = next(filter(None, match.groups())).split("@")[0].replace("/", ".")
        return unknown(key, overrides)
    return text.partition("\n")[0]


def reference(error: Exception, overrides: Iterable[str]) -> str:
    """The message about an interpolation ${…} of a key that does not exist."""
    reason = re.search(r"Interpolation key '.*?' not found", str(error))
    typed = next((f"{text}: " for text in overrides if "${" in text), "")
    return f"{typed}{reason[0] if reason else error}; {RESERVED}"


def require_no_reference(key: str, text: str) -> None:
    """Raise a ValueError if the value `text` of `key` contains ${, which would be read as an interpolation."""
    if "${" in text:
        raise ValueError(f"{key}={text}: {RESERVED}")


def unknown(key: str, overrides: Sequence[str] = ()) -> str:
    """The message about a key that the configuration does not have."""
    typed = next(
        (text for text in overrides if text.lstrip("+~").replace("/", ".").startswith((f"{key}=", f"{key}@"))), key
    )
    if key in configurations.dotted_keys() - configurations.top_level():
        return f"{typed}: {key} is not a setting of the chosen options; --cfg job shows all settings"
    all_keys = configurations.dotted_keys()
    level = [name for name in all_keys if name.count(".") == key.count(".")]
    return f"{typed}: there is no {key}{nearest(key, level) or nearest(key, all_keys)}; --help lists all settings"


def require_known(overrides: Iterable[str], choices: Iterable[str]) -> None:
    """Raise a ValueError if an override appends (`+modle=mlp`) a key that no command reads."""
    first_parts = {*configurations.top_level(), *choices, "hydra"}
    for override in overrides:
        key = re.split(r"[=@]", override.lstrip("+"))[0].replace("/", ".")
        if override.startswith("+") and key.partition(".")[0] not in first_parts:
            raise ValueError(unknown(key, [override]))


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean …?`, or "" if there is no similar word."""
    close = difflib.get_close_matches(word, sorted(words), n=3)
    return f"; did you mean {' or '.join(close)}?".rstrip("?") if close else ""


def require_words(arguments: Iterable[str]) -> None:
    """Raise a ValueError for a setting with dashes (--model=mlp) or without a name (=3), or for an unknown experiment."""
    arguments = list(arguments)
    own_files = any(text.startswith(("--config-dir", "-cd")) for text in arguments)
    for text in arguments:
        key, equals, value = text.partition("=")
        bare = key.lstrip("-")
        if key in OPTIONAL and not own_files:
            options = configurations.options(key)
            for option in value.split(","):
                if option not in (*options, "null") and not option.startswith("["):
                    raise ValueError(
                        f"{key}={option}: no such option{nearest(option, options)}; there are: {', '.join(options)}"
                    )
        if equals and not bare:
            raise ValueError(_grammar(text))
        if (
            equals
            and key != bare
            and bare.partition(".")[0] in configurations.top_level() | set(configurations.groups())
        ):
            raise ValueError(f"{text}: settings are written without dashes: {program.word(f'{bare}={value}')}")


def _grammar(typed: str) -> str:
    """The message about an argument that violates Hydra's grammar; suggests quotes around its value if they would help."""
    key, equals, value = typed.partition("=")
    if not equals or not re.fullmatch(r"[+~]{0,2}[\w.@/-]+", key):
        return f"{typed}: expected key=value, for example levels=8 or model=vgg16; --help lists all settings"
    if any(value.count(opening) != value.count(closing) for opening, closing in ("[]", "{}", "()")):
        return f"{typed}: a bracket is not closed; write a list as 'key=[1,2,4]', with quotes for the shell"
    return (
        f"{typed}: a value with spaces or special characters needs quotes for the program in addition to those for the shell: "
        f"{program.pasted(key, value)}"
    )
