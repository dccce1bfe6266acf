"""Tables of explanations say what the results say."""

import runpy

from test_leaderboard import SCRIPTS, cells, result

from snnconv.results.records import Result
from snnconv.results.tables import energies, losses
from snnconv.runtime import files


def explained(**changes) -> Result:
    errors = {"ann": 0.9, "clipped": 0.8, "clipped_at": {"1": 0.85, "2": 0.8}, "limit": 0.82,
              "even": {"1": 0.5, "2": 0.7}, "snn": {"1": 0.4, "2": 0.75}}  # fmt: skip
    tables = {"fp32": {"snn": {"1": 1e6, "2": 3e6}, "quantized": {"1": 2e6, "2": 2.5e6}, "ann": 9e6,
                       "wins_until": {"quantized": 1, "ann": 2}},
              "int8": {"snn": {"1": 2e5, "2": 3e5}, "quantized": {"1": 1e5, "2": 2e5}, "ann": 1e6,
                       "wins_until": {"quantized": None, "ann": 2}}}  # fmt: skip
    energy = {"bits": {"1": 1, "2": 2}, "tables": tables}
    return result("mse", explanation={"images": 100, "role": "valid", "errors": errors, "energy": energy}, **changes)


def test_losses_lead_from_the_ann_to_the_snn():
    first, second = (row for row in cells(losses([explained(), result("qcfs")])) if row[0] != "method")
    assert first == ["mse, resnet20", "1", "90.0", "5.0", "35.0", "10.0", "40.0", "82.0"]
    assert second == ["mse, resnet20", "2", "90.0", "10.0", "10.0", "-5.0", "75.0", "82.0"]
    for row in (first, second):
        ann, *drops, snn, _ = map(float, row[2:])
        assert abs(ann - sum(drops) - snn) < 0.05


def test_energies_stand_beside_the_quantized_ann():
    rows = [row for row in cells(energies([explained()])) if row[0] != "method"]
    assert rows == [
        ["mse, resnet20", "1", "1", "1 / 2", "0.2 / 0.1"],
        ["mse, resnet20", "2", "2", "3 / 2.5", "0.3 / 0.2"],
        ["mse, resnet20", "cheaper at most until T =", "", "1", "never"],
    ]


def test_make_tables_fills_them(tmp_path):
    (tmp_path / "study").mkdir()
    files.append_line(tmp_path / "study" / "results.jsonl", explained().as_dict())
    fill = runpy.run_path(str(SCRIPTS / "make_tables.py"))["fill"]
    text = fill("<!-- losses study -->\n<!-- end -->\n<!-- energies study -->\nold\n<!-- end -->", tmp_path)
    assert "| mse, resnet20 | 1 | 90.0 |" in text
    assert "1 / 2" in text
    assert "old" not in text
