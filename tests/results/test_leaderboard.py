"""A leaderboard compares what can be compared, believes no claim that its run contradicts, and shows what it read."""

import copy
import csv
import io
import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib import image

from snnconv.results.leaderboard import boards, leaderboard, long_rows, plot
from snnconv.results.records import Result, read_baselines, read_results
from snnconv.results.rows import contradictions, gather, gather_baselines
from snnconv.results.summary import as_csv
from snnconv.results.tables import mean_std, read_published, table
from snnconv.spiking.latency import Latency, latency_class

SCRIPTS = Path(__file__).parents[2] / "scripts"
PLAIN = {"warmup": 0, "waits": False, "spike_levels": 1, "signed": False, "readout_from": 1, "needs_training": "none"}


def result(method: str = "qcfs", seed: int = 0, curve=(0.5, 0.75), **changes) -> Result:
    """A result at T = 1, 2, …; changes of latency, network or emitted go into these."""
    return Result.from_dict(content(method, seed, curve, **changes), f"runs/{method}-{seed}/result.json")


def content(method: str = "qcfs", seed: int = 0, curve=(0.5, 0.75), **changes) -> dict:
    """The same, as `result.json` has it."""
    made = {
        "ann_accuracy": 0.9, "snn_accuracy": {str(t): value for t, value in enumerate(curve, 1)}, "method": method,
        "settings": {}, "calibration_images": 100, "levels": 8, "select": "best", "warmup": 0, "latency": PLAIN,
        "model": "resnet20", "data": "cifar10", "images_tested": 10000, "seed": seed, "precision": "float32",
        "spikes_per_image": {str(t): 1000.0 * t for t, _ in enumerate(curve, 1)}, "emitted": {"least": 0, "most": 1},
        "wall_seconds": {"train": 60.0, "convert": 1.0, "evaluate": 2.0},
        "network": {"weights": f"w{seed}", "recipe": "r1", "activation": "QCFS"},
    }  # fmt: skip
    for key, value in changes.items():
        made[key] = {**made[key], **value} if key in ("latency", "network", "emitted") and value else value
    made["latency"] = {**made["latency"], "warmup": made["warmup"]}
    return made


def cells(text: str) -> list[list[str]]:
    """The rows of every table in a Markdown text, heads left out."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] not in ("class", "---", "data")]


# classes


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "plain"),
        ({"needs_training": "activation"}, "plain"),
        ({"warmup": 4}, "pre-simulated τ=4"),
        ({"warmup": 4, "waits": True}, "pre-simulated τ=4, waiting"),
        ({"signed": True}, "signed"),
        ({"spike_levels": 5}, "5 levels"),
        ({"readout_from": 9}, "readout from 9"),
        ({"needs_training": "weights"}, "trained after conversion"),
    ],
)
def test_every_latency_field_that_hides_something_is_in_the_class(changes, name):
    assert latency_class(PLAIN | changes) == name


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"emitted": {"least": -1}}, "claims unsigned spikes, but a neuron emitted -1 in one step"),
        ({"emitted": {"most": 3}}, "claims at most 1 spikes a step, but a neuron emitted 3"),
        ({"emitted": {"least": -2}, "latency": {"signed": True}}, "claims at most 1 spikes a step, but a neuron emitted 2"),
        ({"emitted": {"most": 6}, "latency": {"spike_levels": 5}}, "claims at most 5 spikes a step, but a neuron emitted 6"),
    ],
)  # fmt: skip
def test_a_claim_that_the_run_contradicts_is_an_error_that_names_it(changes, text):
    honest, liar = result("srp"), result("sly", **changes)
    with pytest.raises(ValueError, match="Correct the method's Latency") as error:
        leaderboard([honest, liar])
    assert str(error.value).splitlines()[0] == f"runs/sly-0/result.json: sly {text}"
    assert "srp" not in str(error.value)


def test_a_warmup_that_the_latency_does_not_tell_is_a_contradiction():
    sly = replace(result(), warmup=4)
    assert contradictions(sly) == ["claims τ = 0, but ran with τ = 4"]


@pytest.mark.parametrize(
    "changes",
    [
        {"emitted": {"least": -1}, "latency": {"signed": True}},
        {"emitted": {"most": 5}, "latency": {"spike_levels": 5}},
        {"emitted": {"least": 0, "most": 0}},
        {"warmup": 4},
    ],
)
def test_an_honest_claim_passes(changes):
    assert contradictions(result(**changes)) == []


def test_what_an_older_result_does_not_tell_is_not_checked_and_that_is_said():
    old = content("old", curve=(0.5, 0.6))
    del old["emitted"], old["network"], old["settings"], old["calibration_images"], old["spikes_per_image"]
    text = leaderboard([Result.from_dict(old)])
    assert "Class not compared with the emitted spikes (older results): old." in text
    assert "network not recorded" in text
    assert "not checked" not in leaderboard([result()])


def test_a_result_older_than_a_field_of_the_latency_shares_a_row_with_newer_ones():
    newer = result(seed=1, latency=Latency().as_dict())
    assert set(newer.latency) > set(PLAIN)
    assert len(gather([result(), newer])) == 1


# rows and boards


def test_mean_and_deviation_over_seeds_by_hand():
    (row,) = gather([result(seed=s, curve=[value]) for s, value in enumerate((0.5, 0.6, 0.7))])
    assert mean_std(row.accuracy(1)) == "60.00 ± 10.00"
    assert mean_std(row.gap(1)) == "30.00 ± 10.00"
    assert row.at(2) == row.accuracy(2) == []
    assert (mean_std([]), mean_std([0.5])) == ("–", "50.00")


def test_what_was_evaluated_twice_counts_once_the_last_time():
    again = result(curve=(0.6, 0.7, 0.8))
    (row,) = gather([result(curve=(0.5, 0.75)), again, result(seed=1, curve=(0.4,))])
    assert [len(row.results), row.accuracy(1), row.accuracy(3)] == [2, [0.6, 0.4], [0.8]]
    (row,) = gather([again, result(curve=(0.5,))])  # a shorter one leaves the other T
    assert [row.accuracy(1), row.accuracy(3)] == [[0.5], [0.8]]


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "cifar100"}, {"model": "vgg16"}, {"levels": 4}, {"images_tested": 500}, {"select": "test"},
        {"precision": "bf16"}, {"simulate": {"precision": "bf16"}},
        {"network": {"recipe": "r2"}}, {"network": {"activation": "ReLU"}},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_cannot_be_compared_never_shares_a_table(changes):
    results = [result("qcfs"), result("srp", **changes), result("cos")]
    assert sorted(sorted(row.label for row in rows) for rows in boards(results)) == [["cos", "qcfs"], ["srp"]]
    assert leaderboard(results).count("| class |") == 2


def test_a_t_that_only_some_seeds_have_is_told():
    seeds = [result(seed=seed) for seed in (0, 1)]
    assert "same networks" not in leaderboard(seeds)
    assert "The values are means over different sets of networks." in leaderboard(
        [*seeds, result(seed=1, curve=(0.5, 0.6, 0.7))]
    )


def test_two_networks_of_one_seed_are_told_and_count_as_one_seed():
    text = leaderboard([result(), result(network={"weights": "begun"}), result(seed=1)])
    assert cells(text)[0][-1] == "2"
    assert "Several networks with the same seed, counted separately: qcfs." in text


def test_rows_without_a_common_t_are_not_ranked():
    """Each is best at its own T."""
    latency = {"needs_training": "weights"}
    alone = [
        result("finetune", settings={"timesteps": t}, latency=latency, snn_accuracy={str(t): 0.5 + t / 100},
               spikes_per_image={str(t): 100.0 * t})
        for t in (2, 1)
    ]  # fmt: skip
    text = leaderboard(alone)
    assert [row[1] for row in cells(text)] == ["finetune (timesteps=1)", "finetune (timesteps=2)"]
    assert "Not ranked, because no T and network are common to all rows of the class: trained after conversion." in text
    assert [row[6:8] for row in cells(text)] == [["39.00 (T=1)", "100 (T=1)"], ["38.00", "200"]]
    assert [row[1] for row in cells(leaderboard(alone[:1]))] == ["finetune (timesteps=2)"]  # says its T even alone


def test_untrained_networks_are_the_same_if_their_weights_are():
    one, other = ({"recipe": None, "weights": name, "activation": "ReLU"} for name in ("w1", "w2"))
    results = [result("max_norm", network=one), result("mse", network=one), result("mse", network=other)]
    assert [[row.label for row in rows] for rows in boards(results)] == [["max_norm", "mse"], ["mse"]]
    results = [result("mse", seed=seed, network=one) for seed in (0, 1)]
    assert len(gather(results)[0].results) == 2


def test_settings_tell_rows_apart_and_only_those_that_differ_are_shown():
    results = [result("srp", settings={"warmup": tau, "rule": "mse"}, warmup=tau) for tau in (4, 8)]
    assert [row.label for row in gather(results)] == ["srp (warmup=4)", "srp (warmup=8)"]
    assert [row.label for row in gather(results[:1])] == ["srp"]
    results = [result("mse", calibration_images=count) for count in (100, 1000)]
    assert {row.label for row in gather(results)} == {"mse (data.calibration=100)", "mse (data.calibration=1000)"}


def test_only_equal_classes_share_a_ranking():
    """Best first within a class, plain first; bold only where there is a rival."""
    results = [
        result("qcfs", curve=(0.5, 0.75)), result("better", curve=(0.4, 0.9)), result("srp", curve=(0.9, 0.95), warmup=4),
        result("cos", curve=(0.95, 0.96), warmup=8), result("st_bif", curve=(0.1, 0.2), latency={"signed": True}),
    ]  # fmt: skip
    rows = cells(leaderboard(results))
    assert [row[:3] for row in rows] == [
        ["plain", "better", "T"], ["plain", "qcfs", "T"], ["pre-simulated τ=4", "srp", "T + 4"],
        ["pre-simulated τ=8", "cos", "T + 8"], ["signed", "st_bif", "T"],
    ]  # fmt: skip
    assert [row[4:6] for row in rows[:3]] == [["40.00", "**90.00**"], ["**50.00**", "75.00"], ["90.00", "95.00"]]
    assert rows[0][6:] == ["0.00", "2000", "1.0", "2.0", "1"]  # gap, spikes, convert, evaluate, seeds


def test_nothing_is_the_best_where_it_stands_alone():
    rows = cells(leaderboard([result("qcfs", curve=(0.5, 0.75)), result("short", curve=(0.4,))]))
    assert [row[4:6] for row in rows] == [["**50.00**", "75.00"], ["40.00", "–"]]


def test_rows_over_different_seeds_are_told():
    results = [result("qcfs", seed=0), result("qcfs", seed=1), result("srp", seed=0)]
    assert "The values are means over different sets of networks." in leaderboard(results)
    assert "same networks" not in leaderboard(results[:1])


def test_rows_are_ranked_on_the_networks_that_both_ran_on():
    """The second network is the better one: who ran on it alone is not the better method for it."""
    second = {"network": {"weights": "again"}}
    results = [
        result("qcfs", curve=(0.5, 0.5)), result("qcfs", curve=(0.7, 0.7), **second),
        result("same", curve=(0.7, 0.7), **second), result("worse", curve=(0.4,)), result("alone", curve=(0.9,), seed=1),
    ]  # fmt: skip
    rows = cells(leaderboard(results[:4]))
    assert [(row[1], row[4], row[5]) for row in rows] == [
        ("qcfs", "**60.00 ± 14.14**", "**60.00 ± 14.14**"), ("same", "**70.00**", "**70.00**"), ("worse", "40.00", "–"),
    ]  # fmt: skip
    text = leaderboard(results[:4])
    assert "Not ranked, because no T and network are common to all rows of the class: plain." in text
    assert "The values are means over different sets of networks." in text
    assert [row[1] for row in cells(leaderboard([results[0], results[1], results[3]]))] == ["qcfs", "worse"]
    alone = next(row for row in cells(leaderboard(results)) if row[1] == "alone")
    assert alone[4] == "90.00"  # of nobody's network: no rival


def test_the_csv_has_every_t_with_its_steps():
    results = [result("srp", seed=seed, warmup=4, curve=(0.5, 0.7 + seed / 10)) for seed in (0, 1)]
    rows = list(csv.DictReader(io.StringIO(as_csv(long_rows(results)))))
    assert [(row["timesteps"], row["warmup"], row["steps"]) for row in rows] == [("1", "4", "5"), ("2", "4", "6")]
    assert float(rows[1]["accuracy"]) == 0.75
    assert float(rows[1]["accuracy_std"]) == pytest.approx(0.1 / 2**0.5)
    assert float(rows[1]["gap"]) == pytest.approx(0.15)
    assert (rows[1]["spikes_per_image"], rows[1]["seeds"], rows[1]["class"]) == ("2000.0", "2", "pre-simulated τ=4")


def test_any_leaderboard_can_be_drawn(tmp_path):
    many = [result(f"method{k}", curve=(0.1, 0.2 + k / 50)) for k in range(14)]
    plot(tmp_path / "one.png", many)
    plot(tmp_path / "two.png", [*many, result(data="cifar100", warmup=4)])
    one, two = (image.imread(tmp_path / name).shape for name in ("one.png", "two.png"))
    assert two[0] == 2 * one[0]


# files


def test_results_are_read_from_folders_and_lines_the_last_written_last(tmp_path):
    for name in ("b/result.json", "a/evaluations/srp/1/result.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(content(name)))
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(content(name)) + "\n" for name in ("x", "y")))
    assert [found.method for found in read_results([tmp_path])] == [
        "b/result.json",
        "a/evaluations/srp/1/result.json",
    ]
    assert [found.source for found in read_results([lines])] == [f"{lines}:1", f"{lines}:2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", "{", "result.json: damaged, not valid JSON"),
        ("result.json", "[]", "result.json: contains no JSON object; not a result of snnconv"),
        ("result.json", '{"method": "x"}', "result.json: has no seed, levels, model"),
        ("results.jsonl", "{}\n", "results.jsonl:1: has no seed"),
        ("results.jsonl", "half", "results.jsonl:1: damaged"),
        ("other.txt", "", "contains no result.json or results.jsonl; it is written when a run ends"),
    ],
)
def test_what_is_no_result_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace(".", r"\.")):
        read_results([tmp_path])


PUBLISHED = {"method": "NQ", "model": "resnet20", "snn_accuracy": {"2": 0.773}, "source": "its README"}


def test_published_figures_stand_beside_ours_with_their_source_and_are_not_ranked(tmp_path):
    (tmp_path / "published.json").write_text(
        json.dumps([PUBLISHED, {**PUBLISHED, "method": "other", "model": "vgg16"}])
    )
    published = read_published(tmp_path)
    rows = cells(leaderboard([result("qcfs"), result("srp")], published))
    assert rows[2] == ["plain", "*NQ* (published: its README)", "T", "–", "–", "77.30", *["–"] * 5]
    assert len(rows) == 3
    assert rows[0][5] == "**75.00**"
    assert cells(table([result()], published))[1] == [
        "–", "resnet20", "–", "*NQ* (published: its README)", "0", "–", "–", "77.30", "–", "–"
    ]  # fmt: skip
    assert read_published(tmp_path / "none") == []


def test_a_published_figure_without_a_source_is_refused(tmp_path):
    (tmp_path / "published.json").write_text(json.dumps([PUBLISHED, {**PUBLISHED, "source": ""}]))
    with pytest.raises(ValueError, match=r"published.json: entry 2 has no source; a published result needs its source"):
        read_published(tmp_path)


# quantized networks


def written(folder: Path, *baselines: dict) -> Path:
    """A folder of baseline.json files."""
    for number, changes in enumerate(baselines):
        shared = {key: value for key, value in content().items() if key not in ("snn_accuracy", "method", "latency")}
        made = {
            **shared, "baseline": "ptq_static", "settings": {"observer": "mse", "weight_bits": 8, "activation_bits": 4},
            "accuracy": 0.5, "weight_bits": 8, "activation_bits": 4, "size_bytes": 2048.0,
            "energy": {"int8_45nm": 2.5e6},
        }  # fmt: skip
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "baseline.json").write_text(json.dumps({**made, **changes}))
    return folder


def test_quantized_networks_stand_below_the_results_of_theirs(tmp_path):
    """The most accurate first, mean and deviation over seeds; another network's in a table of its own."""
    other = {"network": {"weights": "x", "recipe": "r2", "activation": "QCFS"}, "baseline": "qat", "energy": None}
    folder = written(tmp_path, {}, {"seed": 1, "accuracy": 0.6, "network": content(seed=1)["network"]}, other,
                     {"accuracy": 0.85, "weight_bits": 4, "settings": {"observer": "kl"}})  # fmt: skip
    text = leaderboard([result("qcfs")], [], read_baselines([folder]))
    rows = cells(text)
    assert rows[0][:2] == ["plain", "qcfs"]
    assert rows[1] == ["quantized ANN", "accuracy", "ANN", "gap", "KiB", "µJ int8_45nm", "seeds"]
    assert rows[2] == ["ptq_static W4A4", "85.00", "90.00", "5.00", "2.0", "2.5", "1"]
    assert rows[3] == ["ptq_static W8A4", "55.00 ± 7.07", "90.00 ± 0.00", "35.00 ± 7.07", "2.0", "2.5", "2"]
    assert rows[5] == ["qat W8A4", "50.00", "90.00", "40.00", "2.0", "1"]
    assert text.index("network r1") < text.index("W4A4") < text.index("network r2") < text.index("qat")
    assert "not ranked among the rows above" in text
    assert "Quantized" not in leaderboard([result("qcfs")])


def test_collected_baselines_are_read_back(tmp_path):
    first = read_baselines([written(tmp_path / "a", {}, {"accuracy": 0.6, "settings": {"observer": "kl"}})])
    lines = [one.as_dict() for one in first]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "baselines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for place in (tmp_path / "b", tmp_path / "b" / "results.jsonl"):
        again = read_baselines([place])
        assert [replace(one, source="") for one in again] == [replace(one, source="") for one in first]
    assert [row.label for row in gather_baselines(first)] == [
        "ptq_static W8A4 (observer=kl)",
        "ptq_static W8A4 (observer=mse)",
    ]


# the README's tables


@pytest.fixture(scope="module")
def fill():
    return runpy.run_path(str(SCRIPTS / "make_tables.py"))["fill"]


def test_blocks_are_filled_and_the_text_around_them_stays(fill, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.jsonl").write_text(json.dumps(content()) + "\n")
    text = (
        "Before\n<!-- table study -->\nstale\n<!-- end -->\nbetween\n<!-- leaderboard study -->\n<!-- end -->\nafter\n"
    )
    new = fill(text, tmp_path)
    assert "stale" not in new
    assert "| cifar10 | resnet20 | 8 | qcfs | 0 | 90.00 | 50.00 | 75.00 | 1 | 60 |" in new
    assert "| plain | qcfs | T | 90.00 | 50.00 | 75.00 |" in new
    assert new.startswith("Before\n<!-- table study -->\n| data |")
    assert new.endswith("<!-- end -->\nafter\n")
    assert fill(new, tmp_path) == new


@pytest.mark.parametrize(
    "text", ["<!-- table none -->\n<!-- end -->", "<!-- leaderboard none -->\n", "<!-- table none -->\n"]
)
def test_a_block_that_cannot_be_filled_is_named(fill, tmp_path, text):
    with pytest.raises(ValueError, match=r"none: needs experiments/none/results.jsonl and a closing <!-- end -->"):
        fill(text, tmp_path)


def test_the_tables_here_are_up_to_date(fill):
    root = SCRIPTS.parent
    pages = runpy.run_path(str(SCRIPTS / "make_tables.py"))["pages"](root)
    assert len(pages) > 10
    for page in pages:
        assert fill(page.read_text(), root / "experiments") == page.read_text(), page


def test_reading_a_board_changes_no_result():
    results = [result("qcfs"), result("srp", warmup=4), result("qcfs", seed=1)]
    before = copy.deepcopy(results)
    leaderboard(results)
    long_rows(results)
    assert results == before


def test_rows_that_training_alone_tells_apart_say_how_they_were_trained():
    command = "python train.py experiment=x fit.epochs={} fit.lr=0.1 levels=8"
    short, long = (result(network={"recipe": f"r{n}"}, command=command.format(n)) for n in (2, 6))
    text = table([short, long])
    assert "| training |" in text
    assert [row[3] for row in cells(text)] == ["epochs=2", "epochs=6"]
    assert "training" not in table([short, result("srp", warmup=4, command=command.format(2))])


def test_a_resumed_run_was_trained_as_it_began():
    command = "python train.py resume=runs/a"
    begun = [["fit.epochs=2", "fit.lr=0.1", "seed=1"], ["fit.epochs=2", "fit.lr=0.1", "calibration=max"]]
    runs = [result(network={"recipe": f"r{n}"}, command=command, trained_with=words) for n, words in enumerate(begun)]
    assert [row[3] for row in cells(table(runs))] == ["–", "calibration=max"]
