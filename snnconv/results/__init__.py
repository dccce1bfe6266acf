"""Results of runs: records, report, figures, tables and leaderboards."""
