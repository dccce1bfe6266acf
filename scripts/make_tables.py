"""Write the tables of README.md and experiments/*/README.md from `experiments/*/results.jsonl`: no number in them is typed.

python scripts/make_tables.py [--check]       --check only says whether they are up to date

    <!-- table NAME --> … <!-- end -->          experiments/NAME as one table
    <!-- leaderboard NAME --> … <!-- end -->    as leaderboards, ranked within equal latency classes
    <!-- losses NAME --> … <!-- end -->         where accuracy went; energies NAME: what an image costs

Published figures stand beside ours where experiments/NAME/published.json holds them, each with its source.
"""

import argparse
import re
import sys
from pathlib import Path

from snnconv.explained import energies, losses
from snnconv.leaderboard import leaderboard, read_published, table
from snnconv.results import read_baselines, read_results

EXPLAINED = {"losses": losses, "energies": energies}
ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"<!-- (table|leaderboard|losses|energies) (\S+) -->\n(.*?)(<!-- end -->|(?=<!-- (?:table|leaderboard|losses|energies) )|\Z)",
    re.DOTALL,
)


def fill(text: str, experiments: Path) -> str:
    """`text` with what stands in its blocks made anew; ValueError naming a block that cannot be filled."""

    def made(block: re.Match) -> str:
        kind, name, _, end = block.groups()
        source = experiments / name / "results.jsonl"
        if not end or not source.is_file():
            raise ValueError(f"{kind} {name}: needs experiments/{name}/results.jsonl and a closing <!-- end -->")
        results = read_results([source])
        if kind in EXPLAINED:
            return f"<!-- {kind} {name} -->\n{EXPLAINED[kind](results)}\n<!-- end -->"
        published = read_published(source.parent)
        made = (
            table(results, published)
            if kind == "table"
            else leaderboard(results, published, read_baselines([source.parent]))
        )
        return f"<!-- {kind} {name} -->\n{made}\n<!-- end -->"

    return BLOCK.sub(made, text)


def main() -> None:
    """Rewrite the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for readme in (ROOT / "README.md", *sorted(ROOT.glob("experiments/*/README.md"))):
        old = readme.read_text()
        try:
            new = fill(old, ROOT / "experiments")
        except (ValueError, OSError) as error:
            sys.exit(f"{readme.relative_to(ROOT)}: {error}")
        if check and new != old:
            sys.exit(f"{readme.relative_to(ROOT)} is not up to date: python scripts/make_tables.py")
        if new != old:
            readme.write_text(new)


if __name__ == "__main__":
    main()
