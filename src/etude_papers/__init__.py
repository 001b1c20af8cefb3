"""Measurements that single papers need, next to their configs in `conf/paper`.

`etude.papers` contains what all papers share: claims, readings of runs, verdicts, reports.
"""
