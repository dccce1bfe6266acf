"""Text of `snnconv --help` and `snnconv train --help`, from docstrings and from the comments of the yaml files."""

import ast
import difflib
import re
import textwrap
from pathlib import Path

from snnconv.commands import COMMANDS
from snnconv.runtime import configurations, program

WIDTH = 80
LISTED = ("method", "data", "experiment")  # groups whose options are listed one per line


def overview() -> str:
    """Commands, examples, choices, and references to more help."""
    lines = ["Train networks, convert them to spiking networks, measure accuracy and cost.", "", "Commands:"]
    lines += [f"  snnconv {name:<12} {text}" for name, text in COMMANDS.items()]
    lines += ["", "Examples:"]
    lines += [
        "  snnconv train                               a demonstration: two minutes on a CPU",
        "  snnconv train model=mlp                     the bundled digits in half a minute",
        "  snnconv train data=cifar10 model=vgg16 levels=8",
        "  snnconv check model=custom model.path=net.py model.name=Net",
        "  snnconv evaluate run=runs/mlp-digits/… method=qcfs,srp 'timesteps=[1,2,4,8]'",
        "",
        *_choices(),
        "",
        "More:",
        "  snnconv train --help           the settings of one command",
        "  snnconv help fit.lr            one setting: defaults and comments; also: help fit",
        "  snnconv train … --cfg job      the whole configuration that a command line gives",
        "  snnconv train … --config-dir=mine        yaml files of yours: mine/model/net.yaml, …",
        '  eval "$(snnconv completion bash)"        the Tab key completes options and settings',
    ]
    return "\n".join(lines)


def page(name: str) -> str:
    """The help of one command: its docstring, the choices, and the settings with their comments."""
    source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""
    lines = [text.replace(f"snnconv {name}", program.command_for(name))]
    if name != "leaderboard":
        lines += ["", *_choices(), "", "Settings:", *(f"  {line}" for line in _settings())]
    return "\n".join(lines)


def about(name: str) -> str:
    """The help of a command or setting; for a setting, its default and comment in every option that has it."""
    if name in COMMANDS:
        return page(name)
    if name in configurations.groups():
        lines = [
            f"{name}={option:<27} {configurations.summary(name, option)}" for option in configurations.options(name)
        ]
        return "\n".join(line.rstrip() for line in lines)
    places = configurations.places(name)
    if not places:
        raise SystemExit(f"snnconv help {name}: {_nearest(name)}")
    width = max(len(file) for file, _ in places)
    return "\n".join(f"conf/{file:<{width}}   {line}" for file, line in places)


def _nearest(name: str) -> str:
    """A message with similar names of commands, groups and settings."""
    names = [*COMMANDS, *configurations.groups(), *configurations.dotted_keys()]
    close = difflib.get_close_matches(name, names, 3, 0.6)
    return f"no such command, group or setting{'; did you mean ' + ' or '.join(close) + '?' if close else ''}"


def _choices() -> list[str]:
    """One line for each group; for the groups in `LISTED` also one line for each option."""
    short = [group for group in configurations.groups() if group not in LISTED]
    lines = ["Choices (group=option):"]
    for group in short:
        options = ", ".join(option for option in configurations.options(group) if (group, option) != ("sweep", "wandb"))
        lines += textwrap.wrap(f"{group}: {options}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    for group in LISTED:
        lines += ["", f"{group}="]
        for option in configurations.options(group):
            room = WIDTH - 2 - max(27, len(option) + 1)
            summary = textwrap.shorten(configurations.summary(group, option), room, placeholder=" …")
            lines.append(f"  {option:<27}{summary}".rstrip())
    return lines


def _settings() -> list[str]:
    """The lines of conf/config.yaml with settings for users, and their comments."""
    text = (configurations.CONF / "config.yaml").read_text(encoding="utf-8")
    match = re.search(r"^levels:.*?(?=^names:)", text, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[0].rstrip().splitlines()
