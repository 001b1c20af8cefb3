"""Measurements for single papers, whose configs are in `conf/paper`.

`etude.papers` contains the code for all papers: claims, values read from runs, verdicts, reports.
"""
