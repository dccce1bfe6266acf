"""Your own table: a CSV file with a row for each sample, numbers in its columns, and one or several targets."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnconv.data.facts import facts_of, finds
from snnconv.data.splits import Pair, Splits, cut_own, divided


def find(**settings: Any) -> dict[str, Any]:
    """Number of columns, classes and moments of the training rows."""
    names = ("file", "target", "drop", "targets")
    samples, columns, classes = read(**{name: settings[name] for name in names})
    train, _ = divided(str(settings["file"]), samples, settings["test"])
    return {
        **facts_of(*train),
        "columns": columns,
        "class_names": classes,
        "num_classes": _outputs(samples[1], classes),
    }


@finds(find)
def table(
    file: str,
    target: str | Sequence[str],
    *,
    drop: Sequence[str] = (),
    targets: str = "classes",
    test: float = 0.2,
    columns: Any = None,
    class_names: Any = None,
    target_mean: Any = None,
    target_std: Any = None,
    **options: Any,
) -> Splits:
    """The rows of a CSV file as `Splits`: inputs [M, C] are all columns but the `target` and those to `drop`.

    targets  "classes": the values of one column, numbers or words, are classes, in sorted order; "numbers": one or several
             columns of numbers.
    test     share or number of rows that are the test set, the same for every seed.
    """
    samples, found, classes = read(file, target, drop, targets)
    if columns is not None and list(columns) != found:
        raise ValueError(f"{file}: has the columns {', '.join(found)}; this run was made with {', '.join(columns)}")
    if class_names is not None and list(class_names) != list(classes or []):
        raise ValueError(
            f"{file}: has the classes {', '.join(classes or [])}; this run was made with {', '.join(class_names)}"
        )
    train, tested = divided(str(file), samples, test)
    return cut_own(str(file), train, tested, **options)


def read(
    file: str, target: str | Sequence[str], drop: Sequence[str], targets: str
) -> tuple[Pair, list[str], list[str] | None]:
    """The samples of a file, the names of the input columns, and of the classes if there are any."""
    if targets not in ("classes", "numbers"):
        raise ValueError(f"data.targets={targets!r}: must be classes or numbers")
    if not file or not target:
        raise ValueError("data=table: name the file and the column to learn, data.file=x.csv data.target=price")
    header, rows = _rows(Path(file))
    wanted = [target] if isinstance(target, str) else list(target)
    for key, names in (("target", wanted), ("drop", drop)):
        if missing := [name for name in names if name not in header]:
            raise ValueError(f"data.{key}={missing[0]}: no column of {file}; there are {', '.join(header)}")
    columns = [name for name in header if name not in (*wanted, *drop)]
    if not columns:
        raise ValueError(f"{file}: no columns are left as inputs")
    inputs = _numbers(file, header, rows, columns)
    if targets == "numbers":
        return (inputs, _numbers(file, header, rows, wanted)), columns, None
    if len(wanted) > 1:
        raise ValueError(
            f"data.target={wanted}: classes stand in one column; several columns of numbers are task=regress"
        )
    place = header.index(wanted[0])
    values = [row[place].strip() for row in rows]
    if "" in values:
        raise ValueError(f"{file}: line {values.index('') + 2} has no {wanted[0]}; fill it in, or remove the row")
    classes = sorted(set(values), key=_order)
    numbers = {name: number for number, name in enumerate(classes)}
    return (inputs, torch.tensor([numbers[value] for value in values])), columns, classes


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows; ValueError naming a line of another length."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (data.file)")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8 ({error}); save it as CSV in UTF-8") from error
    comma = max(",;\t", key=text.partition("\n")[0].count)
    lines = [line for line in csv.reader(text.splitlines(), delimiter=comma) if line]
    if len(lines) < 3:
        raise ValueError(f"{path}: {len(lines)} lines; expected a line of column names and a row for each sample")
    header, *rows = [[cell.strip() for cell in line] for line in lines]
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: two columns have one name, of {', '.join(header)}")
    if all(_is_number(cell) for cell in header):
        raise ValueError(f"{path}: its first line holds numbers; expected the names of the columns")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"{path}: line {number} has {len(row)} cells, the line of names {len(header)}")
    return header, rows


def _numbers(file: str, header: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str]) -> Tensor:
    """Columns as float32 [M, C]; ValueError naming column and line of what is no number."""
    values = torch.empty(len(rows), len(names), dtype=torch.float64)
    for column, name in enumerate(names):
        place = header.index(name)
        for number, row in enumerate(rows):
            if not _is_number(row[place]):
                what = f"{row[place]!r}" if row[place] else "nothing"
                raise ValueError(f"{file}: line {number + 2}, column {name}: {what} where a number is expected; leave the "
                                 f"column out with data.drop=[{name}], or write numbers there")  # fmt: skip
            values[number, column] = float(row[place])
    return values.float()


def _is_number(cell: str) -> bool:
    try:
        return abs(float(cell)) < float("inf")
    except ValueError:
        return False


def _order(name: str) -> tuple[float, str]:
    """Numbers by value, words by letters."""
    return (float(name), "") if _is_number(name) else (float("inf"), name)


def _outputs(targets: Tensor, classes: Sequence[str] | None) -> int:
    return len(classes) if classes else targets.shape[1]
