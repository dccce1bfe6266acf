"""Make an entry of the model zoo from a run folder: weights, description, configuration, results and a card.

python scripts/pack_zoo.py runs/… name [--seeds runs/… …] [--out folder] [--license MIT] [--note "…"]

The results are those of the run and of its evaluations (`snnconv evaluate run=runs/…`); with --seeds also those of runs of the same
recipe with other seeds, whose weights are not packed.  The card is written from these results; nothing in it is typed by hand but
--note.  --out is `zoo/` of the checkout by default, which ships with the package and is limited to 12 MB; another folder is meant
for a hub or a release.  Nothing is written if a check fails.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from zoo_card import card

from snnconv.results.records import Result, read, read_results
from snnconv.runtime import configurations, files, zoo
from snnconv.runtime.checkpoint import describe_ann, identity, load_ann, weights_hash
from snnconv.runtime.stored_config import read_stored
from snnconv.runtime.user_files import PATHS

MOST = 12_000_000  # bytes of all entries that ship with the package
NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
DETAILS = (
    "confusion",
    "explanation",
    "exports",
    "layers",
    "baselines",
)  # large parts of a result that the card does not show
OF_THIS_MACHINE = (
    "hydra.",
    "track",
    "device",
    "data.root",
    "threads",
    "resume",
    "run",
)  # overrides that are not stored
ABSOLUTE = re.compile(r"(?<![\w$.:/}])/[\w.-]+/[\w./-]+|[A-Za-z]:\\\\")


def pack(run: Path, name: str, seeds: Sequence[Path], out: Path, licence: str, note: str) -> Path:
    """Write the entry `out`/`name` and return its folder; ValueError or OSError if a check fails."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name}: a name has lower-case letters, digits and underscores: cifar10_resnet20_qcfs_l4")
    if (out / name).exists():
        raise ValueError(f"{out / name}: exists already; remove it or choose another name")
    load_ann(run)  # trusts no other package or file
    results = [result for folder in (run, *seeds) for result in results_of(folder, identity(run))]
    overrides: Any = OmegaConf.to_container(read_stored(run / ".hydra" / "overrides.yaml", []))
    kept = [str(text) for text in overrides if not str(text).lstrip("+").startswith(OF_THIS_MACHINE)]
    choices = read_stored(run / ".hydra" / "hydra.yaml", ["hydra"]).hydra.runtime.choices
    config = portable(read_stored(run / ".hydra" / "config.yaml", []), choices.data)
    if len(precisions := {(result.simulate or {}).get("precision") for result in results} - {None}) == 1:
        config.simulate.precision = precisions.pop()  # evaluations of the entry repeat those of its card
    with tempfile.TemporaryDirectory(prefix="snnconv-") as scratch:
        entry = Path(scratch) / name
        (entry / ".hydra").mkdir(parents=True)
        for file in ("ann.safetensors", "ann.json"):
            shutil.copyfile(run / file, entry / file)
        OmegaConf.save(config, entry / ".hydra" / "config.yaml")
        choices.track = "none"
        OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, entry / ".hydra" / "hydra.yaml")
        OmegaConf.save(OmegaConf.create(kept), entry / ".hydra" / "overrides.yaml")
        lines = [files.json_line(without_details(result)) for result in results]
        files.write_text(entry / "results.jsonl", "".join(lines))
        ships = out.resolve() == zoo.ZOO.resolve()
        facts = {"license": licence, "note": note, "overrides": kept, "epochs": epochs(run, config),
                 "run": f"zoo/{name}" if ships else name, "load": name}  # fmt: skip
        files.write_text(entry / "README.md", card(entry, describe_ann(run), results, facts))
        check(entry, run, results, out)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(entry, out / name)
    return out / name


def results_of(run: Path, recipe: str) -> list[Result]:
    """The results of the network in `run`, which has this `recipe`; ValueError if there are none."""
    if identity(run) != recipe:
        raise ValueError(f"{run}: was trained by another recipe ({identity(run)}) than the packed network ({recipe})")
    weights = weights_hash(run)
    results = [result for result in read_results([run]) if (result.network or {}).get("weights") == weights]
    if not results:
        raise ValueError(
            f"{run}: no result.json belongs to the weights in ann.safetensors; run: snnconv evaluate run={run}"
        )
    return results


def without_details(result: Result) -> dict[str, Any]:
    """The content of a result file without its large parts, and with a command that runs anywhere."""
    empty: Any = {name: type(getattr(result, name))() if name in ("layers", "baselines") else None for name in DETAILS}
    words = [word for word in re.findall(r"(?:'[^']*'|\S)+", result.command) if "=" in word]
    words = [word for word in words if not word.strip("'").startswith(OF_THIS_MACHINE)]
    name = "evaluate" if "run=" in result.command else "train"
    return replace(result, **empty, command=" ".join(["snnconv", name, *words]), trained_with=None).as_dict()


def portable(config: Any, data: str) -> Any:
    """A stored configuration without paths, device, threads and tracker of this machine; data.root is that of conf/data/."""
    default: Any = OmegaConf.to_container(OmegaConf.load(configurations.CONF / "data" / f"{data}.yaml"))
    for key in PATHS:
        value = OmegaConf.select(config, key)
        if isinstance(value, str) and Path(value).is_absolute():
            OmegaConf.update(config, key, default.get("root") if key == "data.root" else None)
    config.device = config.threads = "auto"
    config.track = OmegaConf.load(configurations.CONF / "track" / "none.yaml")
    return config


def epochs(run: Path, config: Any) -> tuple[int, int]:
    """The epochs that were trained, and those that the recipe has."""
    planned = int(OmegaConf.select(config, "fit.epochs") or 0)
    done = [line["epoch"] + 1 for line in files.read_lines(run / "metrics.jsonl") if "epoch" in line]
    return max(done, default=planned), planned


def check(entry: Path, run: Path, results: Sequence[Result], out: Path) -> None:
    """ValueError unless the entry loads, its results are complete, and it holds no path of this machine."""
    if weights_hash(entry) != weights_hash(run) or len(read(Result, entry / "results.jsonl")) != len(results):
        raise ValueError(f"{run}: changed while it was packed")
    load_ann(entry)
    for file in (file for file in entry.rglob("*") if file.is_file() and file.suffix != ".safetensors"):
        if match := ABSOLUTE.search(file.read_text(encoding="utf-8")):
            raise ValueError(f"{file.relative_to(entry)}: contains a path of this machine, {match[0]}")
    size = sum(file.stat().st_size for folder in (entry, out) for file in folder.rglob("*") if file.is_file())
    if out.resolve() == zoo.ZOO.resolve() and size > MOST:
        raise ValueError(f"the zoo would have {size / 1e6:.1f} MB, but only {MOST / 1e6:.0f} MB ship with the package; use --out "
                         "for networks that a hub or a release holds")  # fmt: skip


def main() -> None:
    """Pack the run that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with a trained network and results")
    parser.add_argument("name", help="name of the entry: cifar10_resnet20_qcfs_l4")
    parser.add_argument("--seeds", nargs="+", type=Path, default=[], help="runs of the same recipe with other seeds")
    parser.add_argument("--out", type=Path, default=zoo.ZOO, help="folder of the entry (default: zoo/)")
    parser.add_argument("--license", default="MIT", help="licence of the weights")
    parser.add_argument("--note", default="", help="a paragraph for the card")
    options = parser.parse_args()
    try:
        folder = pack(options.run, options.name, options.seeds, options.out, options.license, options.note)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{folder}: {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
