"""What the site adds to the pages: files of the repository as pages, links out of docs/, tables of every option."""

import ast
import html
import inspect
import logging
import posixpath
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mkdocs.structure.files import File

LOG = logging.getLogger("mkdocs.hooks.cpvt")  # a warning here fails the strict build
ROOTED = {  # page -> the file of the repository that it shows
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "weights.md": "src/cpvt/models/weights/README.md",
    "examples.md": "examples",
}
OPTIONS = "<!-- options -->"  # in commands.md: where the tables of options go
LINK = re.compile(
    r"(?P<code>^ *```.*?^ *```|`+[^`]*`+)|\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def on_files(files, config):
    """Add pages made of files outside docs/."""
    root = _root(config)
    for page, source in ROOTED.items():
        if (root / source).is_dir():
            files.append(File.generated(config, page, content=_examples(root / source)))
        else:
            files.append(File.generated(config, page, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead links to their page on the site, or to the repository; write the tables of options."""
    uri = page.file.src_uri
    source = _root(config) / ROOTED[uri] if uri in ROOTED else Path(config.docs_dir, uri)

    def lead(match):
        if match["code"] or re.match(r"#|\w+:", match["target"]):
            return match[0]
        return _link(match, source.parent, uri, config, files)

    return LINK.sub(lead, markdown).replace(OPTIONS, option_tables() if OPTIONS in markdown else "")


def on_post_page(output, page, config):
    """Write each page also as Markdown, for readers of llms.txt."""
    if not page.file.src_uri.startswith("api/"):
        copy = Path(config.site_dir, page.file.src_uri)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(page.markdown)
    return output


def option_tables() -> str:
    """Every option of every verb as Markdown, from the dataclasses of cpvt.config."""
    from cpvt.cli import VERBS

    return "\n\n".join(_tables(verb, kind, about) for verb, (kind, _, about) in VERBS.items())


def _root(config) -> Path:
    return Path(config.config_file_path).parent


def _link(match: re.Match, folder: Path, uri: str, config: Any, files: Any) -> str:
    """A link as the site has it: to its page, to the repository, or plain text where the repository is unknown."""
    path, anchor = re.fullmatch(r"([^#]*)(#.*)?", match["target"]).groups(default="")
    root, text = _root(config), match["text"]
    found = Path(folder, path).resolve()
    if not found.exists():
        LOG.warning("%s links to %s, which does not exist", uri, match["target"])
        return text
    inside = found.relative_to(root).as_posix()
    pages = {source: page for page, source in ROOTED.items()}
    page = pages.get(inside, inside.removeprefix(f"{Path(config.docs_dir).name}/"))
    file = files.get_file_from_path(page)
    if file is not None and file.inclusion.is_included():
        return f"[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"
    if not config.repo_url:
        return text
    kind = "tree" if found.is_dir() else "blob"
    return f"[{text}]({config.repo_url.rstrip('/')}/{kind}/HEAD/{inside}{anchor})"


def _examples(folder: Path) -> str:
    """The scripts of a folder as one page."""
    parts = ["# Examples", "Each script runs as it stands."]
    for path in sorted(folder.glob("*.py")):
        title, _, code = path.read_text().removeprefix('"""').partition('"""\n')
        parts.append(f"## {path.name}\n\n{title}\n\n```python\n{code.strip()}\n```")
    return "\n\n".join(parts)


def _tables(verb: str, kind: type, about: str) -> str:
    """The options of one verb: its own, then a table for each group that it shares with others."""
    groups: dict[str, list[str]] = {}
    for group, row in _rows(kind):
        groups.setdefault(group, []).append(row)
    head = "| option | values | default | meaning |\n|---|---|---|---|\n"
    parts = [f"### Options of cpvt {verb}", f"{about[0].upper()}{about[1:]}."]
    for group, rows in groups.items():
        parts += [f"**{group}**"] * bool(group) + [head + "\n".join(rows)]
    return "\n\n".join(parts)


def _rows(kind: type, group: str = "", defaults: Any = None) -> Iterator[tuple[str, str]]:
    """(group, line of a table) of every option; nested dataclasses are groups."""
    hints, docs = get_type_hints(kind), _docs(kind)
    for each in fields(kind):
        if is_dataclass(hints[each.name]):
            inner = each.default_factory()
            yield from _rows(hints[each.name], (inner.__doc__ or each.name).partition("\n")[0], inner)
        elif not any(map(is_dataclass, get_args(hints[each.name]))):
            default = getattr(defaults, each.name) if defaults is not None else each.default
            flag = f"--{each.name.replace('_', '-')}"
            if default is MISSING and each.name != "out":
                flag = each.name.upper()  # given without a flag
            cells = (f"`{flag}`", _values(hints[each.name]), _default(default), _escape(docs.get(each.name, "")))
            yield group, f"| {' | '.join(cells)} |"


def _docs(kind: type) -> dict[str, str]:
    """Field -> the string below it; of `device` and the like, which many have, that of another configuration."""
    from cpvt import config

    known: dict[str, str] = {}
    kinds = [each for each in vars(config).values() if isinstance(each, type) and is_dataclass(each)]
    for each in (*kinds, kind):
        body = ast.parse(inspect.getsource(each)).body[0].body
        for field, text in zip(body, body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                known[field.target.id] = " ".join(text.value.value.split())
    return known


def _values(hint: Any) -> str:
    """A type as a reader of the command line understands it."""
    from cpvt.config import Size

    if hint == Size:
        return "size"
    kinds = [each for each in get_args(hint) if each is not type(None)]
    if get_origin(hint) is Literal:
        return ", ".join(f"`{each}`" for each in kinds)
    if get_origin(hint) is tuple:
        several = Ellipsis in kinds
        return f"{_values(kinds[0])}, several" if several else " ".join(map(_values, kinds))
    if kinds:
        return "size" if set(kinds) == set(get_args(Size)) else " or ".join(map(_values, kinds))
    return {str: "text", int: "number", float: "number", bool: "flag"}.get(hint, str(hint))


def _default(value: Any) -> str:
    if value is MISSING:
        return "required"
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _escape(text: str) -> str:
    return re.sub(r"([*|\[\]])", r"\\\1", html.escape(text, quote=False))
