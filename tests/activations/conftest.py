"""Fixtures of the tests of activations."""

from small_models import model as model
