"""Pages that the program itself knows best: methods, configuration, studies, and the notebooks of examples/.

`write` fills docs/generated/, which is not under version control.
"""

import hashlib
import inspect
import json
import os
import re
import shutil
import statistics
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import nn

import snnconv
from snnconv.analysis.figures import as_svg
from snnconv.conversion import registry
from snnconv.conversion.method import Method
from snnconv.results.figures import draw_curves, legend_outside
from snnconv.results.records import read_results
from snnconv.results.rows import SpikingRow, gather
from snnconv.runtime import configurations, zoo
from snnconv.spiking.latency import latency_class

ROOT = Path(__file__).resolve().parents[1]
STUDY = "leaderboard_cifar10_resnet20"  # all methods on one network
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#:\s]+)(#[^)\s]*)?\)")  # a relative link: text, path, anchor


def write(folder: Path) -> None:
    """Fill `folder` with the generated pages."""
    pages = {
        "methods.md": methods(folder),
        "configuration.md": configuration(),
        "leaderboard.md": leaderboard(),
        "studies.md": studies(folder),
        "tutorials.md": tutorials(folder),
        "zoo.md": model_zoo(folder),
    }
    for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        pages[f"{name.lower()}.md"] = LINK.sub(partial(_relinked, source=ROOT), text)
    for name, text in pages.items():
        _replace(folder / name, text)


def _replace(path: Path, text: str) -> None:
    """Write `text` unless the file has it already, so that Sphinx reads only pages that changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def relink(docname: str, text: str) -> str:
    """A page of docs/ whose links out of docs/ lead to the generated copies of those files."""
    up = "../" * docname.count("/")
    text = re.sub(r"\]\((?:\.\./)+experiments/(\w+)/README\.md", rf"]({up}generated/studies/\1.md", text)
    return re.sub(r"\]\((?:\.\./)+([A-Z]+)\.md", lambda link: f"]({up}generated/{link[1].lower()}.md", text)


# methods


def methods(folder: Path) -> str:
    """Every conversion method: class, networks that it starts from, source, settings, and a figure where a study measured it."""
    lines = [
        "# Methods of conversion\n",
        "Names for `method=` on the command line and `snnconv.convert(…, method=…)`. The class is that of a small network that "
        "this version converted with default settings; see [latency classes](../concepts/classes.md).\n",
    ]
    rows = gather(read_results([ROOT / "experiments" / STUDY / "results.jsonl"]))
    for name in snnconv.methods():
        lines += _method(registry.find(name), _figure(folder, name, [row for row in rows if row.one.method == name]))
    return "\n".join(lines)


def _figure(folder: Path, name: str, rows: list[SpikingRow]) -> list[str]:
    """The picture of a method in the study of all methods, if it is there."""
    if not rows:
        return []
    curves = {
        f"{row.label}, {_trained(row)}": {t: statistics.fmean(row.accuracy(t)) for t in row.timesteps} for row in rows
    }
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same file in every build
        content = as_svg(lambda axes: (draw_curves(axes, curves, {}, ""), legend_outside(axes)), 8, 3)
    _replace(folder / "methods" / f"{name}.svg", content.decode())
    return [
        f"![Accuracy of {name} against timesteps](methods/{name}.svg)\n",
        f"Measured in the study [{STUDY}](studies/{STUDY}.md).\n",
    ]


def _trained(row: SpikingRow) -> str:
    """The network of a row, with the accuracy of its ANN."""
    one = row.one
    activation = (one.network or {}).get("activation")
    ann = f"ANN {100 * statistics.fmean(row.ann()):.1f} %"
    return f"{one.model} {activation}, {ann}" if activation == "ReLU" else f"{one.model} L = {one.levels}, {ann}"


def _method(method: Method, figure: list[str]) -> list[str]:
    kinds = ", ".join(kind.__name__ for kind in method.takes or ()) or "what `base` starts from"
    settings = {key: value for key, value in method.settings().items() if key not in ("simulate", "operators")}
    rows = [f"| `{key}` | {_shown(value)} |" for key, value in settings.items()]
    table = ["| setting | default |", "| --- | --- |", *rows, ""] if rows else ["No settings.\n"]
    yaml = (configurations.CONF / "method" / f"{method.name}.yaml").read_text(encoding="utf-8").strip()
    return [
        f"## {method.name}\n",
        f"{method.summary}\n",
        f"**Starts from** {kinds}. **Class**: {_class_of(method)}.\n",
        *table,
        *figure,
        f"```yaml\n# conf/method/{method.name}.yaml\n{yaml}\n```\n",
    ]


def _class_of(method: Method) -> str:
    """The latency class of a small network that `method` has converted."""
    if method.takes is None:
        return "trained after conversion"
    torch.manual_seed(0)
    batches = [(torch.rand(64, 8), torch.randint(3, (64,)))]
    relu = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    gelu = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 3))
    for model in (relu, snnconv.prepare(relu, levels=4, calibration=batches), gelu):
        with suppress(ValueError):  # the method starts from another activation
            return latency_class(snnconv.convert(model, batches, method=method.name).latency.as_dict())
    raise ValueError(f"{method.name}: converts none of the small networks that show its class")


def _shown(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, partial):
        settings = ", ".join(f"{key}={setting!r}" for key, setting in value.keywords.items())
        return f"`{value.func.__name__}({settings})`"
    return f"`{getattr(value, '__name__', None) or repr(value)}`"


# configuration


def configuration() -> str:
    """Every option of every group of conf/, as its yaml file: keys, defaults, comments."""
    lines = [
        "# Configuration\n",
        "All keys with their defaults. `snnconv help <key>` prints the same for one key.\n",
        _yaml("config.yaml"),
    ]
    for group in configurations.groups():
        lines.append(f"## {group}\n")
        lines += [f"### {group}={name}\n\n{_yaml(f'{group}/{name}.yaml')}" for name in configurations.options(group)]
    return "\n".join(lines)


def _yaml(path: str) -> str:
    return f"```yaml\n{(configurations.CONF / path).read_text(encoding='utf-8').strip()}\n```\n"


# studies


def studies(folder: Path) -> str:
    """The index of the studies; each README of experiments/ is copied with its pictures."""
    names = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/README.md"))
    for name in names:
        source = ROOT / "experiments" / name
        text = (source / "README.md").read_text(encoding="utf-8")
        _replace(folder / "studies" / f"{name}.md", LINK.sub(partial(_relinked, source=source), text))
        for picture in source.glob("*.png"):
            shutil.copy2(picture, folder / "studies" / f"{name}_{picture.name}")
    listed = "\n".join(f"studies/{name}" for name in names)
    return (
        "# Studies\n\nEvery table comes from recorded runs: `experiments/<study>/results.jsonl` holds command, commit and seed of "
        f"each. The README of each study is shown here as it is.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )


def _relinked(link: re.Match[str], source: Path) -> str:
    """A link of a study as it is here: to another study, to a picture, or the plain path of a file of the repository."""
    text, path, anchor = link[1], link[2], link[3] or ""
    target = Path(os.path.normpath(source / path))
    if target.name == "README.md" and target.parent.parent == ROOT / "experiments":
        return f"{text}({target.parent.name}.md{anchor})"
    if target.suffix == ".png" and target.parent == source:
        return f"{text}({source.name}_{target.name})"
    return f"{text.strip('![]')} (`{os.path.relpath(target, ROOT)}`)"


def leaderboard() -> str:
    """A table of every result in experiments/ that can be sorted and filtered, and curves to compare, as a notebook page."""
    sources = [ROOT / "docs" / "board.py", *sorted((ROOT / "experiments").glob("*/results.jsonl"))]
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()  # else the cell is cached
    return (
        "---\nfile_format: mystnb\nkernelspec: {name: python3}\nmystnb: {remove_code_source: true}\n---\n"
        "# Leaderboard\n\nResults of all studies: accuracy in percent by timesteps. Sort by a column, or filter by a word such as "
        "`plain` or `resnet20`. Only results of one class, network and data set are comparable. Rows of the class `published` are "
        "figures of papers and their repositories, with the source in the place of the command.\n\n"
        f"```{{code-cell}}\n# {content}\nimport sys\nsys.path.insert(0, '..')\nimport board\nboard.table()\n```\n\n"
        "Accuracy against timesteps. Click on a name in the legend to show or hide its curve, twice to see it alone.\n\n"
        "```{code-cell}\nboard.curves()\n```\n"
    )


def results() -> list[dict[str, Any]]:
    """Every recorded result of a conversion, with the name of its study."""
    rows = []
    for path in sorted((ROOT / "experiments").glob("*/results.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            result = json.loads(line)
            if isinstance(result.get("snn_accuracy"), dict) and "latency" in result:
                rows.append({"study": path.parent.name, **result})
    if not rows:
        raise ValueError(f"{ROOT / 'experiments'}: no results")
    return rows


def published() -> list[dict[str, Any]]:
    """Every published figure that a study shows beside its own, with the name of the study."""
    paths = sorted((ROOT / "experiments").glob("*/published.json"))
    return [
        {"study": path.parent.name, **entry} for path in paths for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


# zoo


def model_zoo(folder: Path) -> str:
    """The networks of the zoo with their accuracies; each card is copied."""
    shown = (1, 2, 4, 8, 16, 32)
    lines = ["| name | model | data | L | class | method | ANN | " + " | ".join(f"T={t}" for t in shown) + " | seeds |"]
    lines.append("|" + " --- |" * (8 + len(shown)))
    for name in zoo.names():
        card = (zoo.ZOO / name / "README.md").read_text(encoding="utf-8")
        _replace(folder / "zoo" / f"{name}.md", card.partition("---\n\n")[2])
        for row in gather(read_results([zoo.ZOO / name])):
            one, curve = row.one, {t: f"{100 * statistics.fmean(row.accuracy(t)):.2f}" for t in row.timesteps}
            ann = f"{100 * statistics.fmean(result.ann_accuracy for result in row.results):.2f}"
            cells = [f"[{name}](zoo/{name}.md)", one.model, one.data, one.levels, row.latency_class, row.label, ann]
            cells += [*(curve.get(t, "–") for t in shown), len(row.seeds)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    cards = "\n".join(f"zoo/{name}" for name in zoo.names())
    return (
        "# Networks of the zoo\n\nTest accuracy in percent, mean over seeds. [Use and files](../zoo.md).\n\n"
        + "\n".join(lines)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{cards}\n```\n"
    )


# tutorials


def tutorials(folder: Path) -> str:
    """The index of the tutorials; the notebooks of examples/ are copied."""
    names = []
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        _replace(folder / "tutorials" / path.name, path.read_text(encoding="utf-8"))
        names.append(f"tutorials/{path.stem}")
    return (
        "# Tutorials\n\nNotebooks on the digits of scikit-learn; each runs in under two minutes on two CPU cores. The files are in "
        "`examples/`.\n\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n"
    )
