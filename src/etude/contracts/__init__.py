"""Contracts of the classes that a config can name: one `typing.Protocol` for each kind of part."""
