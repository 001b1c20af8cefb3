"""Contracts: the requirements on the classes in a config.

Each kind of component, such as an attention or a data module, has a `typing.Protocol`.
"""
