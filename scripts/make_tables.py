"""Write the tables of README.md, docs/*.md and experiments/*/README.md from `experiments/*/results.jsonl`.

python scripts/make_tables.py [--check]       --check only says whether they are up to date

    <!-- table NAME --> … <!-- end -->          experiments/NAME as one table
    <!-- leaderboard NAME --> … <!-- end -->    as leaderboards, ranked within equal latency classes
    <!-- losses NAME --> … <!-- end -->         where accuracy went; energies NAME: what an image costs
    <!-- ladders NAME --> … <!-- end -->        stages of compression
    <!-- integers NAME --> … <!-- end -->       networks in integers, from experiments/NAME/integers.jsonl
    <!-- quantized NAME --> … <!-- end -->      quantized ANNs beside spikes, from experiments/NAME/baselines.jsonl
    <!-- peers NAME --> … <!-- end -->          other tools on the same networks, from experiments/NAME/peers.jsonl

Published figures stand beside ours where experiments/NAME/published.json holds them, each with its source.
"""

import argparse
import re
import sys
from pathlib import Path

from benchmarks.peer_table import peer_table

from snnconv.results.hardware_tables import integers, ladders, quantized
from snnconv.results.leaderboard import leaderboard
from snnconv.results.records import IntegerResult, read, read_baselines, read_results
from snnconv.results.tables import energies, losses, read_published, table
from snnconv.runtime.files import read_lines

MADE = {"losses": losses, "energies": energies, "ladders": ladders}
ROOT = Path(__file__).resolve().parents[1]
KINDS = "|".join(["table", "leaderboard", "integers", "quantized", "peers", *MADE])
BLOCK = re.compile(rf"<!-- ({KINDS}) (\S+) -->\n(.*?)(<!-- end -->|(?=<!-- (?:{KINDS}) )|\Z)", re.DOTALL)


def pages(root: Path) -> list[Path]:
    """The files whose blocks are filled."""
    return [root / "README.md", *sorted(root.glob("docs/*.md")), *sorted(root.glob("experiments/*/README.md"))]


def fill(text: str, experiments: Path) -> str:
    """`text` with its blocks written anew; ValueError naming a block that cannot be filled."""

    def filled(block: re.Match) -> str:
        kind, name, _, end = block.groups()
        source = experiments / name / ("peers.jsonl" if kind == "peers" else "results.jsonl")
        if not end or not source.is_file():
            raise ValueError(f"{kind} {name}: needs experiments/{name}/{source.name} and a closing <!-- end -->")
        if kind == "peers":
            return f"<!-- {kind} {name} -->\n{peer_table(read_lines(source))}\n<!-- end -->"
        results, study = read_results([source]), source.parent
        if kind in MADE:
            text = MADE[kind](results)
        elif kind == "integers":
            text = integers(read(IntegerResult, study / "integers.jsonl"))
        elif kind == "quantized":
            text = quantized(read_baselines([study]), results)
        elif kind == "table":
            text = table(results, read_published(study))
        else:
            text = leaderboard(results, read_published(study), read_baselines([study]))
        return f"<!-- {kind} {name} -->\n{text}\n<!-- end -->"

    return BLOCK.sub(filled, text)


def main() -> None:
    """Rewrite the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in pages(ROOT):
        old = page.read_text(encoding="utf-8")
        try:
            new = fill(old, ROOT / "experiments")
        except (ValueError, OSError) as error:
            sys.exit(f"{page.relative_to(ROOT)}: {error}")
        if check and new != old:
            sys.exit(f"{page.relative_to(ROOT)} is not up to date: python scripts/make_tables.py")
        if new != old:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
