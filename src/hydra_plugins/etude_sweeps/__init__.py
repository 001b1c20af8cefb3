"""What Hydra has to find here: it takes launchers and sweepers from this namespace alone."""
