"""Code in README and docs runs: Python blocks on a small network, commands as far as Hydra composes them."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from shutil import which

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import nn

from snnconv.commands import COMMANDS
from snnconv.conversion.registry import convert
from snnconv.hardware.export.to_file import export
from snnconv.hardware.integer.file import read
from snnconv.hardware.integer.golden import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/[!g_]*/*.md")])
RUN = ROOT / "tests" / "stored_runs" / "mlp"
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)  # language, code


def _blocks(page: Path, *languages: str) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def _python(page: Path) -> list[str]:
    return [code for code in _blocks(page, "python") if "…" not in code.replace("runs/…", "")]


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


@pytest.mark.skipif(which("cc") is None, reason="no C compiler")
def test_c_block_runs(tmp_path):
    """The block of how-to/export.md with the files that its Python block writes."""
    torch.manual_seed(0)
    loader = [(torch.rand(20, 6), torch.randint(3, (20,))) for _ in range(4)]
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    snn = convert(model, loader)
    export(snn, tmp_path / "robot.c", example=loader, timesteps=8)
    (block,) = _blocks(ROOT / "docs" / "how-to" / "export.md", "c")
    filled = block.replace("snn_reset();", "for (int i = 0; i < SNN_IMAGE_SIZE; i++) image[i] = i;\n    snn_reset();")
    show = 'for (int k = 0; k < SNN_LOGITS; k++) printf("%d\\n", sum[k]);'
    program = f'#include <stdio.h>\n#include "robot.h"\nint main(void) {{\n{filled}{show}\nreturn 0;\n}}\n'
    (tmp_path / "main.c").write_text(program)
    subprocess.run(["cc", "-std=c99", "-Wall", "-Werror", "main.c", "robot.c", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert len(printed.split()) == 3
    stored = read(tmp_path / "robot.npz")
    logits, _ = run(stored, torch.arange(6).numpy().astype("int64").reshape(1, *stored.image.shape), 8)
    assert [int(word) for word in printed.split()] == logits.sum(0)[0].tolist()


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


def test_every_notebook_installs_snnconv_where_it_is_missing():
    """So that it opens on Colab or Kaggle; the built page leaves this cell out."""
    first = []
    for path in sorted(Path("examples").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        first.append(next(cell for cell in cells if cell["cell_type"] == "code"))
    assert len(first) > 5
    assert all("%pip install" in "".join(cell["source"]) for cell in first)
    assert all(cell["metadata"] == {"tags": ["remove-cell"]} for cell in first)
    assert len({"".join(cell["source"]) for cell in first}) == 1
