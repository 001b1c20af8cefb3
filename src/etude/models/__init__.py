"""Whole models, built from the parts in `etude.nn`."""
