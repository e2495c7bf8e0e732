"""What slow versions of encodings share: loops over tokens, and places that can be checked by eye."""

import itertools

from cpvt.encodings import ModelShape

SHAPE = ModelShape(dim=16, depth=4, num_heads=2, grid=(4, 6))
GRIDS = [(4, 6), (6, 4), (1, 7), (7, 1), (3, 5), (9, 11)]


def place(index, length, training_length):
    """Where token `index` of an axis stands, on the training axis over which an axis of this length is spread."""
    return (index + 0.5) * training_length / length - 0.5


def tokens(grid):
    """(number, row, column) of every token of a grid, row by row."""
    return [(number, *place) for number, place in enumerate(itertools.product(*map(range, grid)))]
