"""Pages with tables between markers."""

import pytest

from cpvt.reporting.markdown import fill


def test_a_marker_without_a_table_and_a_table_without_a_marker_are_refused():
    page = "<!-- begin a -->\nold\n<!-- end a -->"
    assert fill(page, {"a": r"\1 new"}) == "<!-- begin a -->\n\\1 new\n<!-- end a -->"
    for made in ({}, {"a": "", "b": ""}):
        with pytest.raises(ValueError, match="markers and tables differ: "):
            fill(page, made)
