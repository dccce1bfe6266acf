"""Your own table: a CSV file with a row for each sample, numbers in its columns, and one or several targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnconv.data.csv_file import _order, numbers_of, rows_of
from snnconv.data.facts import facts_of, finds
from snnconv.data.splits import Pair, Splits, cut_own, divided

MOST_CLASSES = 20  # upper bound, unless classes have two rows or more on average


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
    """Rows of a CSV file as `Splits`: inputs [M, C] are all columns except `target` and `drop`.

    targets  "classes": the values of one column, numbers or words, are classes, in sorted order; "numbers": one or several
             columns of numbers.
    test     share or number of rows of the test set, which are the same for every seed.
    """
    samples, inputs, classes = read(file, target, drop, targets)
    if columns is not None and list(columns) != inputs:
        raise ValueError(f"{file}: has the columns {', '.join(inputs)}; this run was trained with {', '.join(columns)}")
    if class_names is not None and list(class_names) != list(classes or []):
        raise ValueError(
            f"{file}: has the classes {', '.join(classes or [])}; this run was trained with {', '.join(class_names)}"
        )
    train, tested = divided(str(file), samples, test)
    return cut_own(str(file), train, tested, **options)


def read(
    file: str, target: str | Sequence[str], drop: Sequence[str], targets: str
) -> tuple[Pair, list[str], list[str] | None]:
    """Samples of a file, names of the input columns, and names of the classes (None if targets are numbers)."""
    if targets not in ("classes", "numbers"):
        raise ValueError(f"data.targets={targets!r}: must be classes or numbers")
    if not file or not target:
        raise ValueError(
            "data=table: expected a file and the column to predict, such as data.file=x.csv data.target=price"
        )
    header, rows = rows_of(Path(file))
    wanted = [target] if isinstance(target, str) else list(target)
    for key, names in (("target", wanted), ("drop", drop)):
        if missing := [name for name in names if name not in header]:
            raise ValueError(f"data.{key}={missing[0]}: not a column of {file}; its columns are {', '.join(header)}")
    columns = [name for name in header if name not in (*wanted, *drop)]
    if not columns:
        raise ValueError(f"{file}: no columns are left as inputs")
    inputs = numbers_of(file, header, rows, columns)
    if targets == "numbers":
        return (inputs, numbers_of(file, header, rows, wanted)), columns, None
    if len(wanted) > 1:
        raise ValueError(
            f"data.target={wanted}: expected one column of classes; for several columns of numbers use task=regress"
        )
    place = header.index(wanted[0])
    values = [row.cells[place] for row in rows]
    if "" in values:
        line = rows[values.index("")].line
        raise ValueError(f"{file}: line {line} has no {wanted[0]}; fill it in, or remove the row")
    classes = sorted(set(values), key=_order)
    if len(classes) > max(MOST_CLASSES, len(rows) // 2):
        raise ValueError(f"{file}: column {wanted[0]} holds {len(classes)} different values in {len(rows)} rows, too many for "
                         "classes; use task=regress to predict numbers")  # fmt: skip
    numbers = {name: number for number, name in enumerate(classes)}
    return (inputs, torch.tensor([numbers[value] for value in values])), columns, classes


def _outputs(targets: Tensor, classes: Sequence[str] | None) -> int:
    return len(classes) if classes else targets.shape[1]
