"""Contracts of the classes that a config can name: a `typing.Protocol` per kind of component."""
