"""The validation bound."""

from __future__ import annotations

from ppvae.randomness import stream

#: datapoints scored at once when the validation bound is taken, and draws for each
VALID_BLOCK, VALID_PARTICLES = 1000, 8
#: the most validation data that get rows of their own: fitting these would otherwise cost more than training
VALID_ROWS = 1000
#: the stream of random numbers of validation
STREAM_VALID = stream("training/validation")
