"""Reading a CSV file: rows, and columns of numbers; errors name line and column."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """The cells of a row, and the number of its line in the file."""

    line: int
    cells: list[str]


def rows_of(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows of a file, with comma, semicolon or tab as separator; ValueError naming a line of another length."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (data.file)")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not encoded in UTF-8 ({error}); save it as CSV in UTF-8") from error
    comma = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma)
    try:
        lines = [Row(reader.line_num, [cell.strip() for cell in line]) for line in reader if line]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}; save it as CSV again") from error
    if len(lines) < 3:
        raise ValueError(
            f"{path}: {len(lines)} lines; expected a line of column names and at least two rows, one for each sample"
        )
    (_, header), *rows = lines
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: two columns have the same name, in {', '.join(header)}")
    if all(is_number(cell) for cell in header):
        raise ValueError(f"{path}: the first line holds numbers; expected the names of the columns")
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path}: line {line} has {len(cells)} cells, but there are {len(header)} column names; "
                             f"expected one cell per column (a cell that contains {comma!r} needs quotes)")  # fmt: skip
    return header, rows


def numbers_of(file: str, header: Sequence[str], rows: Sequence[Row], names: Sequence[str]) -> Tensor:
    """The columns `names` as float32 [M, C]; ValueError naming line and column of a cell that is not a number."""
    values = torch.empty(len(rows), len(names), dtype=torch.float64)
    for column, name in enumerate(names):
        place = header.index(name)
        for number, (line, cells) in enumerate(rows):
            if not is_number(cell := cells[place]):
                what = f"{cell!r}" if cell else "nothing"
                remedy = f"omit the column with data.drop=[{name}], or fill in numbers"
                if is_number(cell.replace(",", ".")):
                    remedy = "use a decimal point"
                raise ValueError(f"{file}: line {line}, column {name}: got {what}, expected a number; {remedy}")
            values[number, column] = float(cell)
    return values.float()


def is_number(cell: str) -> bool:
    """Whether a cell holds a finite number."""
    try:
        return abs(float(cell)) < float("inf")
    except ValueError:
        return False


def _order(name: str) -> tuple[float, str]:
    """Sort key: numbers by value, then words by letters."""
    return (float(name), "") if is_number(name) else (float("inf"), name)
