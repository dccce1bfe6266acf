"""Tables of classes, and means over the seeds of a sweep."""

import statistics

import pytest
from matplotlib import image
from test_leaderboard import result

from snnconv.results.confusion import class_rows, confusion_tables, matrices, pair_rows
from snnconv.results.figures import curve_colors, plot_curves
from snnconv.results.seeds import mean_curves, over_seeds, seeds_table

FEW = {
    "timesteps": 4,
    "classes": ["cat", "dog", "owl"],
    "ann": {"images": [4, 2, 0], "right": [4, 1, 0], "wrong": [[1, 0, 1]]},
    "snn": {"images": [4, 2, 0], "right": [3, 0, 0], "wrong": [[1, 0, 2], [0, 2, 1]]},
}
MANY = {
    "timesteps": 4,
    "classes": [f"c{k}" for k in range(40)],
    "ann": {"images": [10] * 40, "right": [10] * 39 + [7], "wrong": [[39, 0, 3]]},
    "snn": {"images": [10] * 40, "right": [*range(10)] + [10] * 29 + [5], "wrong": [[0, 1, 10], [39, 0, 5]]},
}


def test_few_classes_have_a_matrix_and_all_accuracies():
    assert matrices(FEW) == {"ANN": [[4, 0, 0], [1, 1, 0], [0, 0, 0]], "SNN": [[3, 0, 1], [2, 0, 0], [0, 0, 0]]}
    assert pair_rows(FEW) == []
    assert class_rows(FEW) == [
        {"name": "cat", "images": 4, "ann": 1.0, "snn": 0.75}, {"name": "dog", "images": 2, "ann": 0.5, "snn": 0.0},
    ]  # fmt: skip
    table = confusion_tables(FEW)["confusion"]
    assert len(table) == 2 * 9
    assert {"network": "SNN", "class": "dog", "predicted": "cat", "images": 2} in table


def test_many_classes_have_the_most_frequent_mistakes_and_the_worst_classes():
    assert matrices(MANY) == {}
    assert pair_rows(MANY) == [
        {"class": "c0", "predicted": "c1", "snn": 10, "ann": None}, {"class": "c39", "predicted": "c0", "snn": 5, "ann": 3},
    ]  # fmt: skip
    rows = class_rows(MANY)
    assert [row["name"] for row in rows[:2]] == ["c0", "c1"]
    assert len(rows) == 20
    assert len(confusion_tables(MANY)["confusion"]) == 3


def test_results_without_a_confusion_have_no_tables():
    assert (confusion_tables(None), class_rows(None), matrices(None), pair_rows(None)) == ({}, [], {}, [])


def test_runs_that_differ_in_their_seed_are_averaged():
    runs = [(f"levels={levels} seed={seed}", result(seed=seed, curve=(0.5 + seed / 10, 0.7 + seed / 10, levels / 10)))
            for levels in (4, 8) for seed in (0, 1, 2)]  # fmt: skip
    groups = over_seeds(runs)
    assert list(groups) == ["levels=4", "levels=8"]
    means, deviations = mean_curves(groups)
    assert means["levels=8 (mean of 3)"] == pytest.approx({1: 0.6, 2: 0.8, 3: 0.8})
    assert deviations["levels=4 (mean of 3)"][1] == pytest.approx(statistics.stdev([0.5, 0.6, 0.7]))
    table = seeds_table(groups)
    assert [*table.columns[3].cells] == ["60.00 ± 10.00"] * 2
    assert over_seeds(runs[::3]) == {}  # one seed: nothing to average


def test_a_sweep_over_seeds_alone_is_one_row():
    groups = over_seeds([(f"seed={seed}", result(seed=seed)) for seed in (0, 1)])
    assert {name: len(results) for name, results in groups.items()} == {"all seeds": 2}


def test_seeds_may_lack_timesteps():
    groups = over_seeds([("seed=0", result(curve=(0.5,))), ("seed=1", result(seed=1, curve=(0.5, 0.9)))])
    assert list(mean_curves(groups)[0]["all seeds (mean of 2)"]) == [1]


@pytest.mark.parametrize("count", [10, 24, 40])
def test_every_curve_has_a_colour_of_its_own(count):
    from matplotlib.colors import to_rgb

    colors = [to_rgb(color) for color in curve_colors(count)]
    assert min(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
               for number, one in enumerate(colors) for other in colors[:number]) > 0.1  # fmt: skip


def test_the_legend_of_many_curves_leaves_the_axes_free(tmp_path, monkeypatch):
    from snnconv.results import figures

    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda path, figure: drawn.append(figure))
    curves = {f"levels={n}": dict.fromkeys((1, 2, 4), 0.5 + n / 100) for n in range(24)}
    plot_curves(tmp_path / "x.png", curves, {"ANN": 0.9}, "24 runs", bands={"levels=3": {1: 0.1, 2: 0.1, 4: 0.1}})
    (figure,) = drawn
    for _ in range(2):  # the layout converges
        figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    assert axes.get_legend().get_window_extent().x1 <= figure.bbox.x1
    assert axes.get_window_extent().width > 0.4 * figure.bbox.width
    monkeypatch.undo()
    plot_curves(tmp_path / "x.png", curves, {}, "24 runs")
    assert image.imread(tmp_path / "x.png").ndim == 3
