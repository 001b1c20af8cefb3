"""Models, built from the modules in `etude.nn`."""
