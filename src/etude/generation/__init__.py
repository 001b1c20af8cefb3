"""Decoding: from logits to tokens to sequences."""
