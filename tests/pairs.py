"""Cases for slow tests: every choice meets every other once, without all combinations of three."""


def pairs(names, first, second):
    """Two cases for each name, such that any two choices of `names`, `first` and `second` (two each) meet in one."""
    return [(name, first[turn], second[(number + turn) % 2]) for number, name in enumerate(names) for turn in (0, 1)]
