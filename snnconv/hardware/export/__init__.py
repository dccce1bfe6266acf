"""Trained and converted networks as files for other programs, one format a file."""
