"""Rows and columns of numbers of a CSV file, with messages that name line and column."""

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
    """Header and rows; ValueError naming a line of another length."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (data.file)")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8 ({error}); save it as CSV in UTF-8") from error
    comma = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma)
    try:
        lines = [Row(reader.line_num, [cell.strip() for cell in line]) for line in reader if line]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}; save it as CSV anew") from error
    if len(lines) < 3:
        raise ValueError(f"{path}: {len(lines)} lines; expected a line of column names and a row for each sample")
    (_, header), *rows = lines
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: two columns have one name, of {', '.join(header)}")
    if all(is_number(cell) for cell in header):
        raise ValueError(f"{path}: its first line holds numbers; expected the names of the columns")
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path}: line {line} has {len(cells)} cells, the line of names {len(header)}; a {comma!r} too few or "
                             "too many? Write a cell that holds one in quotes")  # fmt: skip
    return header, rows


def numbers_of(file: str, header: Sequence[str], rows: Sequence[Row], names: Sequence[str]) -> Tensor:
    """Columns as float32 [M, C]; ValueError naming column and line of what is no number."""
    values = torch.empty(len(rows), len(names), dtype=torch.float64)
    for column, name in enumerate(names):
        place = header.index(name)
        for number, (line, cells) in enumerate(rows):
            if not is_number(cell := cells[place]):
                what = f"{cell!r}" if cell else "nothing"
                remedy = f"leave the column out with data.drop=[{name}], or write numbers there"
                if is_number(cell.replace(",", ".")):
                    remedy = "write decimals with a point"
                raise ValueError(f"{file}: line {line}, column {name}: {what} where a number is expected; {remedy}")
            values[number, column] = float(cell)
    return values.float()


def is_number(cell: str) -> bool:
    """Whether a cell holds a finite number."""
    try:
        return abs(float(cell)) < float("inf")
    except ValueError:
        return False


def _order(name: str) -> tuple[float, str]:
    """Numbers by value, words by letters."""
    return (float(name), "") if is_number(name) else (float("inf"), name)
