"""Code in README and docs runs: Python blocks on a small network, commands as far as Hydra composes them."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import nn

from snnconv.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/[!g_]*/*.md")])
RUN = ROOT / "tests" / "stored_runs" / "mlp"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def _python(page: Path) -> list[str]:
    return [code for code in _blocks(page, "python") if "snnconv." in code and "…" not in code.replace("runs/…", "")]


@pytest.mark.parametrize("page", [page for page in PAGES if _python(page)], ids=lambda page: page.name)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch, capsys):
    """With what the page takes for granted: a network and loaders.  Long trainings are shortened to an epoch."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    loader = [(torch.rand(20, 6), torch.randint(3, (20,))) for _ in range(4)]
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    names = dict.fromkeys(("train_loader", "valid_loader", "test_loader"), loader) | {"model": model.eval()}
    code = "\n".join(["import snnconv", *_python(page)])
    code = code.replace("snnconv.methods(model)", "snnconv.methods(model)[-2:]").replace("runs/…", str(RUN))
    exec(compile(re.sub(r"epochs=\d+", "epochs=1", code), page.name, "exec"), names)


def _commands() -> list[tuple[str, list[str]]]:
    """Every command line of this program in the pages: its text, and its overrides."""
    commands = {}
    for page in PAGES:
        for line in re.sub(r"\\\n\s*", " ", "\n".join(_blocks(page, "", "bash", "console"))).splitlines():
            match = re.match(r"(?:snnconv|python scripts/|python) ?(\w+)(?:\.py)? (.*)", line.partition(" #")[0])
            if match and match[1] in COMMANDS and match[1] != "leaderboard":
                commands[line.strip()] = [word for word in shlex.split(match[2]) if not word.startswith("-")]
    return list(commands.items())


@pytest.mark.parametrize(("line", "overrides"), _commands(), ids=[line[:60] for line, _ in _commands()])
def test_commands_compose(line, overrides, compose_config):
    """A sweep with the first of its values; options of stored runs stand in their folders."""
    places = {"run": RUN, "resume": RUN, "fit.teacher": RUN}
    parser, words = OverridesParser.create(), []
    for override in parser.parse_overrides([word.replace("…", "x") for word in overrides]):
        key = override.get_key_element()
        value = next(iter(override.sweep_string_iterator())) if override.is_sweep_override() else None
        value = str(places.get(key, value or override.get_value_element_as_str()))
        words.append(f"{key}={value}")
    compose_config(*words)


def test_there_are_commands_to_compose():
    assert len(_commands()) > 15
