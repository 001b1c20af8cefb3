"""The parts of a Transformer, in torch alone: attention, position, norm, feed-forward, block.

Shape letters, used in comments and docstrings throughout the package:

    B  batch              H  heads                  F  feed-forward width
    T  query length       G  key-value heads        V  vocabulary
    S  key length         K  width of one head
    D  model width        (H * K = D)

The T queries are the last T of the S positions: S = T without a cache, S > T with one.

A part is chosen by a config file of its name and built by the model. In a part's constructor the
keyword-only arguments without a default are what the model gives (`dim`, `heads`, ...); those
with a default are what a config may state. Either kind may be `layer`, the number of the part's
block from 0, or `layers`, how many blocks there are: who names them is told (`etude.nn.parts`).
"""
