"""Rank all evaluated methods within equal latency classes, as mean ± std over seeds.

python scripts/leaderboard.py runs/…        the same as `snnconv leaderboard …`

The steps are in snnconv/commands/leaderboard.py.
"""

from snnconv.cli import run

if __name__ == "__main__":
    run("leaderboard")
