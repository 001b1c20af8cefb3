"""Launchers and sweepers of Étude. Hydra searches for plugins only in this namespace."""
