"""Models, built from the parts in `etude.nn`."""
