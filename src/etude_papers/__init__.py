"""What single papers need beside their configs in `conf/paper`: measurements of their own.

`etude.papers` holds what all papers share: claims, readings of runs, verdicts, reports.
"""
