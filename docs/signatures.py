"""Docstrings as the site shows them: lines such as `grid: rows and columns` become a list of parameters."""

import re

import griffe

PARAMETER = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*)(?:, in \w+)?: (?=\S)")


class Parameters(griffe.Extension):
    """Rewrites the docstrings of functions and classes before they are rendered."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = as_list(obj.docstring.value)


def as_list(text: str) -> str:
    """Put lines that begin with the name of a parameter, and those that go on with them, into a list."""
    done: list[str] = []
    inside = False
    for line in text.splitlines():
        begins = PARAMETER.match(line)
        if begins:
            done += [""] * (not inside) + [f"- `{begins[1]}`: {line[begins.end() :]}"]
            inside = True
        elif inside and line.strip() and not re.match(r"(Returns?|Raises?|Yields?|Source)\b", line):
            done.append(f"  {line}")
        else:
            done += [""] * (inside and bool(line.strip())) + [line]
            inside = False
    return "\n".join(done)
