"""The modules of a Transformer in plain PyTorch: attention, position, norm, feed-forward, block.

Shape letters, used in comments and docstrings throughout the package:

    B  batch              H  heads                  F  feed-forward width
    T  query length       G  key-value heads        V  vocabulary
    S  key length         K  head dimension
    D  model width        (H * K = D)

The T queries are the last T of the S positions: S = T without a cache, S > T with a cache.

A config file selects a module by name, and the model builds it. In the module's constructor, the
keyword-only arguments without a default come from the model (`dim`, `heads`, ...); arguments with a
default may be set in a config. An argument `layer` receives the index of the module's block, from
0; an argument `layers` receives the number of blocks (`etude.nn.parts`).
"""
