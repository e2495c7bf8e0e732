"""Tables of rows and columns against a slow version and timm's NaFlex models."""

import math

import pytest
import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

from cpvt.encodings import create_encoding
from cpvt.grids import Layout
from tests.encodings.slow import GRIDS, SHAPE, place, tokens


def read(table, at):
    """Linear interpolation, beyond the ends their value."""
    at = min(max(at, 0), len(table) - 1)
    low = math.floor(at)
    return table[low] + (at - low) * (table[min(low + 1, len(table) - 1)] - table[low])


@pytest.mark.parametrize("grid", GRIDS)
def test_each_token_gets_a_vector_of_its_row_and_one_of_its_column(grid):
    encoding = create_encoding("factorized", SHAPE)
    added = encoding(torch.zeros(1, grid[0] * grid[1], 16), Layout((grid,)), 0)[0].detach()
    for number, row, column in tokens(grid):
        expected = read(encoding.rows, place(row, grid[0], 4)) + read(encoding.columns, place(column, grid[1], 6))
        torch.testing.assert_close(added[number], expected.detach(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_timms_tables_are_read_alike(grid):
    config = NaFlexVitCfg(embed_dim=16, depth=1, num_heads=2, pos_embed="factorized", pos_embed_grid_size=(4, 6))
    embeds = NaFlexVit(config, num_classes=0).embeds
    encoding = create_encoding("factorized", SHAPE)
    with torch.no_grad():
        encoding.rows.copy_(embeds.pos_embed_y[0])
        encoding.columns.copy_(embeds.pos_embed_x[0])
    theirs = torch.zeros(1, grid[0] * grid[1], 16)
    places = torch.tensor([[(row, column) for _, row, column in tokens(grid)]])
    with torch.no_grad():
        embeds._apply_factorized_naflex_pos_embed(theirs, places)
    torch.testing.assert_close(encoding.resized(grid).detach(), theirs)


def test_another_training_grid_reads_the_same():
    encoding = create_encoding("factorized", SHAPE)
    before = encoding.resized((8, 9)).detach()
    encoding.set_grid((8, 9))
    assert [len(encoding.rows), len(encoding.columns)] == [8, 9]
    torch.testing.assert_close(encoding.resized((8, 9)).detach(), before)
