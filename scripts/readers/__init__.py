"""Exported files in other programs: one section of the study for each family of formats."""
