"""Entry point of `python -m etude`, equivalent to the command `etude`."""

from etude.cli import main

if __name__ == "__main__":
    main()
