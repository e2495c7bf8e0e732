"""Docstrings as the site shows them: sentences such as `grid: rows and columns` become a list of parameters."""

import re
from collections.abc import Iterable

import griffe


class Parameters(griffe.Extension):
    """Rewrites the docstrings of functions and classes before they are rendered."""

    def on_function(self, *, func, **_):
        self.rewrite(func)

    def on_attribute(self, *, attr, **_):
        self.rewrite(attr)

    def on_class_members(self, *, cls, **_):
        self.rewrite(cls)

    @staticmethod
    def rewrite(obj):
        if obj.docstring is not None:
            names = [] if obj.is_attribute else [each.name for each in obj.parameters]
            obj.docstring.value = as_list(obj.docstring.value, names)


def as_list(text: str, names: Iterable[str] = ()) -> str:
    """Make an item of what begins with a name and a colon: at the start of a line, or of any sentence if in `names`."""
    known = "|".join(map(re.escape, names)) or r"(?!)"
    begins = rf"\n(?=[a-z_]\w*(?:, [a-z_]\w*)*(?:, in \w+)?: \S)|(?<=[.;)]) (?=(?:{known})(?:, (?:{known}))*: )"
    ends = r"\n(?=(?:Returns?|Raises?|Yields?|Source)\b)"
    name = r"^([a-z_]\w*(?:, [a-z_]\w*)*)(?=(?:, in \w+)?: \S)"
    done = []
    for paragraph in re.split(r"\n\s*\n", text):
        for piece in re.split(rf"{begins}|{ends}", f"\n{paragraph}"):
            item = re.sub(name, r"- `\1`", piece)
            done.append(piece.strip("\n") if item == piece else " ".join(item.split()))
    return "\n\n".join(filter(None, done))
