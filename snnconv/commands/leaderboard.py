"""Rank all evaluated methods, mean ± standard deviation over seeds, separately for each latency class.

snnconv leaderboard runs/… [more …] [--out folder]
    reads the result.json of every run and evaluation in the given folders (or results.jsonl files) and writes leaderboard.md,
    leaderboard.csv (one row for each T) and leaderboard.png to --out (default: the first given folder); --collect also writes
    all results to one results.jsonl, from which make_tables.py can fill a README

Quantized networks (scripts/baseline.py) are listed below the spiking versions of the same network; --collect: baselines.jsonl.

A table contains only results of the same network, data and test images.  A result that contradicts its latency class (a "plain"
method whose neurons emitted −1) is an error that names the run, and nothing is written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from snnconv.results.leaderboard import leaderboard, long_rows, plot
from snnconv.results.records import Record, read_baselines, read_results
from snnconv.results.summary import as_csv
from snnconv.results.tables import read_published
from snnconv.runtime import files, program, zoo


def main(arguments: Sequence[str]) -> None:
    """Read the results, print and write the leaderboard."""
    parser = argparse.ArgumentParser(
        prog=program.command_for("leaderboard"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, help="run folders, folders of them, results.jsonl files, or zoo/name"
    )
    parser.add_argument("--out", type=Path, help="where to write (default: the first folder given)")
    parser.add_argument("--collect", action="store_true", help="also write all results to one results.jsonl")
    options = parser.parse_args(arguments)
    try:
        paths = [zoo.located(path) for path in options.paths]
        first = options.paths[0]
        out = options.out or zoo.writable(first.parent if first.is_file() else first)
        results = read_results(paths)
        baselines = read_baselines(paths)
        text = leaderboard(results, read_published(out), baselines)
        out.mkdir(parents=True, exist_ok=True)
        files.write_text(out / "leaderboard.md", text + "\n")
        files.write_text(out / "leaderboard.csv", as_csv(long_rows(results)))
        plot(out / "leaderboard.png", results)
        if options.collect:
            collected: dict[str, Sequence[Record]] = {"results.jsonl": results, "baselines.jsonl": baselines}
            for name, read in collected.items():
                lines = [files.json_line(result.as_dict()) for result in read]
                if lines:  # a result that was read twice is written once
                    files.write_text(out / name, "".join(dict.fromkeys(lines)))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text)
    print(f"Written: {out}/leaderboard.md, .csv and .png", file=sys.stderr)
