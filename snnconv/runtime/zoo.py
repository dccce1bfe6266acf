"""The model zoo: trained networks that come with the package, each in a run folder with a card.

They are in `zoo/` of a checkout, and in `snnconv/zoo/` of an installed package.  `scripts/pack_zoo.py` makes an entry of a run.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
ZOO = _PACKAGE / "zoo" if (_PACKAGE / "zoo").is_dir() else _PACKAGE.parent / "zoo"
WORD = "zoo"  # run=zoo/name


def names() -> list[str]:
    """The names of all entries."""
    return sorted(file.parent.name for file in ZOO.glob("*/ann.json"))


def located(run: str | Path) -> Path:
    """The folder of `run`: the folder of this path, or else the entry of the zoo that it names as `zoo/name`.

    ValueError with the names of all entries if there is neither.
    """
    path = Path(run)
    if len(path.parts) != 2 or path.parts[0] != WORD or path.exists():
        return path
    if path.name not in names():
        raise ValueError(f"{run}: no such network in the zoo; there are {', '.join(names()) or 'none'}")
    return ZOO / path.name


def writable(run: str | Path) -> Path:
    """The folder for evaluations of `run`: its own, or `runs/zoo/name` for an entry of the zoo, which is not changed."""
    path, entries = located(run), ZOO.resolve()
    if path.resolve() == entries:
        return Path("runs") / WORD
    return Path("runs") / WORD / path.name if path.resolve().parent == entries else path
