"""What the site adds to the pages: files of the repository as pages, links out of docs/, tables of every option."""

import html
import json
import logging
import posixpath
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

LOG = logging.getLogger("mkdocs.hooks.cpvt")  # a warning here fails the strict build
ROOTED = {  # page -> the file of the repository that it shows
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "weights.md": "src/cpvt/models/weights/README.md",
}
OPTIONS, SCRIPTS = "<!-- options -->", "<!-- scripts -->"  # where pages get the tables of options, and the examples
LINK = re.compile(
    r"(?P<code>^ *```.*?^ *```|`+[^`]*`+)|(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def on_config(config):
    """Put a page for each notebook into the navigation, where config.nav says `notebooks`."""
    pages = [page for page in _rooted(config) if page.startswith("notebooks/")]
    for entry in config.nav:
        for section in entry.values():
            if "notebooks" in section:
                section[section.index("notebooks") :] = pages
    return config


def on_files(files, config):
    """Add pages made of files outside docs/."""
    for page, source in _rooted(config).items():
        path = _root(config) / source
        given = {"content": notebook(path)} if path.suffix == ".ipynb" else {"abs_src_path": str(path)}
        files.append(File.generated(config, page, **given))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead links to their page on the site, or to the repository; write the tables of options."""
    uri = page.file.src_uri
    rooted = _rooted(config)
    source = _root(config) / rooted[uri] if uri in rooted else Path(config.docs_dir, uri)

    def lead(match):
        if match["code"] or re.match(r"#|\w+:", match["target"]):
            return match[0]
        return _link(match, source.parent, uri, config, files)

    markdown = LINK.sub(lead, markdown)
    for marker, write in ((OPTIONS, option_tables), (SCRIPTS, lambda: scripts(_root(config) / "examples"))):
        markdown = markdown.replace(marker, write()) if marker in markdown else markdown
    return markdown


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

    return "\n\n".join(_table(verb, kind, about) for verb, (kind, _, about) in VERBS.items())


def scripts(folder: Path) -> str:
    """The scripts of a folder as Markdown: what each shows, and its code."""
    parts = []
    for path in sorted(folder.glob("*.py")):
        if path.stem == "execute":  # a tool for the notebooks
            continue
        about, _, code = path.read_text().removeprefix('"""').partition('"""\n')
        parts.append(f"## {path.name}\n\n{about}\n\n```python\n{code.strip()}\n```")
    return "\n\n".join(parts)


def notebook(path: Path) -> str:
    """A notebook as Markdown: its text, its code, and the text and figures that the code returned."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            text = "".join(output.get("text") or data.get("text/plain", ()))
            if "image/png" in data:
                parts.append(f"![figure](data:image/png;base64,{''.join(data['image/png'].split())})")
            elif text:
                parts.append(f"```text\n{text.strip()}\n```")
    return "\n\n".join(parts)


def _root(config: Any) -> Path:
    return Path(config.config_file_path).parent


def _rooted(config: Any) -> dict[str, str]:
    """Page -> the file of the repository that it shows, notebooks among them."""
    notebooks = sorted((_root(config) / "examples").glob("*.ipynb"))
    return ROOTED | {f"notebooks/{path.stem}.md": f"examples/{path.name}" for path in notebooks}


def _link(match: re.Match, folder: Path, uri: str, config: Any, files: Any) -> str:
    """A link as the site has it: to its page, to the repository, or plain text where the repository is unknown."""
    path, anchor = re.fullmatch(r"([^#]*)(#.*)?", match["target"]).groups(default="")
    root, text = _root(config), match["text"]
    found = Path(folder, path).resolve()
    if not found.exists():
        LOG.warning("%s links to %s, which does not exist", uri, match["target"])
        return text
    inside = found.relative_to(root).as_posix()
    pages = {source: page for page, source in _rooted(config).items()}
    page = pages.get(inside, inside.removeprefix(f"{Path(config.docs_dir).name}/"))
    file = files.get_file_from_path(page)
    if file is not None and file.inclusion.is_included():
        return f"{match['image']}[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"
    if not config.repo_url:
        return text
    kind = "tree" if found.is_dir() else "blob"
    return f"[{text}]({config.repo_url.rstrip('/')}/{kind}/HEAD/{inside}{anchor})"


def _table(verb: str, kind: Any, about: str) -> str:
    """The options of one verb, in the groups of its help page."""
    from cpvt.config.describe import describe_options

    parts = [f"### Options of cpvt {verb}", f"{about[0].upper()}{about[1:]}".removesuffix(".") + "."]
    for group, options in groupby(describe_options(kind), key=lambda each: each.group):
        parts += [f"**{group}**", "| option | default | meaning |\n|---|---|---|\n" + "\n".join(map(_row, options))]
    return "\n\n".join(parts)


def _row(option: Any) -> str:
    default = "required" if option.required else f"`{option.default}`" if option.default else ""
    meaning = re.sub(r"([*_|\[\]])", r"\\\1", html.escape(option.text, quote=False))
    invocation = option.invocation.replace("|", "/")  # a bar would end the cell
    return f"| `{invocation}` | {default} | {meaning} |"
