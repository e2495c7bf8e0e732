"""An error quoted in one line."""

import pytest

from cpvt.runtime.errors import WIDTH, error_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError(101), "KeyError: 101"),
        (ValueError(""), "ValueError: no reason given"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (
            RuntimeError("did not load:\n\t Unexpected key: peg.\nmore"),
            "RuntimeError: did not load: Unexpected key: peg.",
        ),
        (ValueError("x" * 900), f"ValueError: {'x' * WIDTH}"),
    ],
)
def test_the_line_has_the_cause(error, line):
    assert error_line(error) == line
