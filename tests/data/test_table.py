"""A user's own table: what is found in a CSV file, and the line and column of what is wrong."""

import pytest
import torch

from snnconv.data.table import find, table

SETTINGS = {"target": "kind", "drop": [], "targets": "classes", "test": 0.25}
PLAIN = {"valid": 0, "calibration": 100, "batch_size": 3, "seed": 0, "device": "cpu"}


def write(path, lines):
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def iris(tmp_path):
    rows = [f"{n},{n * n / 10},{'ab'[n % 2]}{n % 2},{3 * n}" for n in range(12)]
    return write(tmp_path / "iris.csv", ["length, width ,kind,price", *rows])


def load(file, **changes):
    settings = {**SETTINGS, **changes}
    facts = find(file=file, **settings)
    return table(file, **settings, **facts, **PLAIN), facts


def test_words_are_classes_and_the_other_columns_inputs(iris):
    data, facts = load(iris)
    assert facts["columns"] == ["length", "width", "price"]
    assert facts["class_names"] == ["a0", "b1"]
    assert (facts["num_classes"], facts["input_shape"]) == (2, [3])
    assert [data.train.count, data.test.count] == [9, 3]
    inputs = torch.cat([data.train.images, data.test.images])
    labels = torch.cat([data.train.labels, data.test.labels])
    assert sorted(inputs[:, 0].tolist()) == list(range(12))
    assert (inputs[:, 0] % 2 == labels).all()
    torch.testing.assert_close(inputs[:, 2], 3 * inputs[:, 0])
    shown = torch.cat([x for x, _ in data.train])
    torch.testing.assert_close(shown.mean(0), torch.zeros(3), rtol=0, atol=1e-5)


def test_columns_of_numbers_are_learned_together(iris):
    data, facts = load(iris, target=["price", "width"], drop=["kind"], targets="numbers")
    assert (facts["num_classes"], facts["columns"]) == (2, ["length"])
    assert data.train.labels.shape == (9, 2)
    torch.testing.assert_close(data.train.labels[:, 0], 3 * data.train.images[:, 0])
    assert facts["target_mean"][0] == pytest.approx(data.train.labels[:, 0].mean().item(), rel=1e-4)


def test_classes_that_are_numbers_stand_in_their_order(tmp_path):
    file = write(tmp_path / "x.csv", ["a;kind", *[f"{n};{(10, 9, 100)[n % 3]}" for n in range(12)]])
    assert load(file)[1]["class_names"] == ["9", "10", "100"]


@pytest.mark.parametrize(
    ("lines", "changes", "text"),
    [
        (["a,kind", "1,x", "two,y", "3,x"], {}, "line 3, column a: got 'two', expected a number; .*data.drop=.a."),
        (["a,kind", "1,x", ",y", "3,x"], {}, "line 3, column a: got nothing, expected a number"),
        (["a,kind", "1,x", "nan,y", "3,x"], {}, "line 3, column a: got 'nan'"),
        (["a,kind", "1,x", "2,y,z", "3,x"], {}, "line 3 has 3 cells, but there are 2 column names"),
        (["a,kind", "1,x", "2,", "3,x"], {}, "line 3 has no kind; fill it in"),
        (
            ["a,kind", "1,x", "2,y"],
            {"target": "price"},
            "data.target=price: not a column of .*; its columns are a, kind",
        ),
        (["a,kind", "1,x", "2,y"], {"drop": ["b"]}, "data.drop=b: not a column"),
        (["a,kind", "1,x", "2,y"], {"drop": ["a"]}, "no columns are left as inputs"),
        (["a,kind", "1,x", "2,y"], {"targets": "numbers"}, "line 2, column kind: got 'x'"),
        (["a,kind", "1,x", "2,y"], {"targets": "class"}, "data.targets='class': must be classes or numbers"),
        (["1,2", "3,4", "5,6"], {"target": "1"}, "the first line holds numbers"),
        (["a,a", "3,4", "5,6"], {"target": "a"}, "two columns have the same name"),
        (["a,kind"], {}, "1 lines; expected a line of column names"),
    ],
)
def test_wrong_tables_are_told_by_line_and_column(tmp_path, lines, changes, text):
    with pytest.raises(ValueError, match=text):
        load(write(tmp_path / "x.csv", lines), **changes)


def test_a_table_that_changed_is_refused(iris, tmp_path):
    _, facts = load(iris)
    other = write(tmp_path / "y.csv", ["width,length,price,kind", *[f"1,2,{n},a0" for n in range(9)]])
    with pytest.raises(
        ValueError, match="has the columns width, length, price; this run was trained with length, width, price"
    ):
        table(other, **SETTINGS, **facts, **PLAIN)
    with pytest.raises(FileNotFoundError, match=r"gone\.csv: no such file"):
        load(str(tmp_path / "gone.csv"))
    with pytest.raises(ValueError, match="expected a file and the column"):
        load("")
