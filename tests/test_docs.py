"""The documentation site builds strictly, holds every name and option, loads nothing from elsewhere, fits a phone."""

import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

import cpvt
from cpvt.cli import VERBS, main, parse
from cpvt.config import Options
from tests.browser import phone

ROOT = Path(__file__).parents[1]
PARTS = ("docs/hooks.py", "docs/signatures.py", "docs/overrides", "docs/stylesheets")  # what the site is built by
SHOWN = ("CHANGELOG.md", "CONTRIBUTING.md", "src/cpvt/models/weights/README.md")  # files that are pages of the site
COMPARED = {"h1", "h2", "h3", "h4", "li", "table", "th", "td", "pre", "code", "em", "strong", "img", "blockquote"}
LOADING = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
PHONE = (".", "tutorial", "commands", "encodings", "api/evaluation")  # a page of each kind


def build(root, out, **settings):
    """Build the site of a repository strictly, in a process of its own: exit status and messages."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", root / "mkdocs.yml"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CPVT_")}
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run([*command, "--site-dir", out], capture_output=True, text=True, check=False,
                          env={**plain, "PYTHONPATH": paths, "NO_MKDOCS_2_WARNING": "1", **settings})  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    status, messages = build(ROOT, out)
    assert status == 0, messages
    return out


@pytest.fixture
def small(tmp_path):
    """Makes a repository with our configuration and the given pages, then builds it: status, messages, its site."""

    def make(pages, **settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        root = folder / "repository"
        for part in PARTS:
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, root / part)
        texts = {**dict.fromkeys(SHOWN, "# A page\n"), "src/small/__init__.py": 'def f():\n    """Does it."""\n'}
        for name, text in {**texts, **{f"docs/{name}": text for name, text in pages.items()}}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        settings_of_site = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
        nav = ["index.md", "changelog.md", "contributing.md", "weights.md"]
        sections = [{"Pages": nav}, {"More": ["notebooks"]}]
        (root / "mkdocs.yml").write_text(f"{settings_of_site}\nnav: {json.dumps(sections)}\n")
        return *build(root, folder / "site", **settings), folder / "site"

    return make


class Tags(HTMLParser):
    """Counts tags, and collects what a page loads when it is opened."""

    def __init__(self, html):
        super().__init__()
        self.counts, self.loads = Counter(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.counts[tag] += tag in COMPARED
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "edit"):
            self.loads.append(given["href"])
        self.loads += [given[key] for key in (LOADING.get(tag),) if key in given]


def page_of(site, markdown):
    """The page of a Markdown file of the site."""
    name = markdown.relative_to(site).with_suffix("").as_posix()
    return site / ("index.html" if name == "index" else f"{name}/index.html")


def test_pages_load_nothing_from_other_hosts(site):
    pages, styles = sorted(site.rglob("*.html")), sorted(site.rglob("*.css"))
    assert len(pages) > 30
    loads = {str(page.relative_to(site)): Tags(page.read_text()).loads for page in pages}
    loads |= {style.name: re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", style.read_text()) for style in styles}
    assert sum(map(len, loads.values())) > 100
    elsewhere = {name: [url for url in urls if re.match(r"(\w+:)?//", url)] for name, urls in loads.items()}
    assert {name: urls for name, urls in elsewhere.items() if urls} == {}


def test_every_public_name_is_in_the_reference(site):
    pages = "".join(page.read_text() for page in (site / "api").rglob("index.html"))
    missing = [name for name in cpvt.__all__ if f'id="cpvt.{name}"' not in pages]
    assert missing == ["__version__"]
    assert "<code>cpvt.__version__</code>" in pages


def names_of(kind):
    """Names of the options of a verb, those of nested configurations too."""
    hints = get_type_hints(kind)
    for each in fields(kind):
        wanted = hints[each.name]
        if is_dataclass(wanted):
            yield from names_of(wanted)
        elif not any(isinstance(part, type) and issubclass(part, Options) for part in getattr(wanted, "__args__", ())):
            yield each.name


def test_every_option_of_every_verb_is_on_the_page(site):
    page = (site / "commands" / "index.html").read_text()
    for verb, (kind, _, _) in VERBS.items():
        part = page.partition(f'id="options-of-cpvt-{verb}"')[2].partition("<h3")[0]
        options = set(re.findall(r"<tr>\s*<td><code>(?:--(?:no-)?)?([\w-]+)", part))
        assert {each.lower().replace("-", "_") for each in options} == set(names_of(kind)), verb


def test_the_site_renders_as_github_does(site):
    github = MarkdownIt("commonmark").enable("table")
    pages = sorted(site.rglob("*.md"))
    assert len(pages) > 20
    for page in pages:
        html = page_of(site, page).read_text()
        ours = Tags(html[html.index("<article") : html.index("</article>")]).counts
        assert +ours == +Tags(github.render(page.read_text())).counts, page.name


def test_links_of_llms_txt_lead_to_pages(site):
    text = (site / "llms.txt").read_text()
    assert text.startswith("# cpvt\n\n> ")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", text, flags=re.MULTILINE)
    assert len(links) == text.count("](")
    for link in links:
        assert (site / link).is_file(), link
        assert (ROOT / "docs" / link).is_file(), link
        assert page_of(site, site / link).is_file()
    guides = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert set(links) == guides


def test_the_extras_are_those_of_the_package():
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    declared = dict(re.findall(r"^(\w+) = \[(.*?)\]$", text, flags=re.MULTILINE | re.DOTALL))
    page = (ROOT / "docs" / "install.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, flags=re.MULTILINE))
    assert list(listed) == list(declared)
    for extra in set(declared) - {"dev"}:
        assert listed[extra].split(", ") == re.findall(r'"([\w-]+)[\w\[\]]*[>=]', declared[extra]), extra


FAULTS = {  # a line of a page -> what the build says of it
    "[a](gone.md)": "index.md links to gone.md, which does not exist",
    "[a](../src/gone.py)": "index.md links to ../src/gone.py, which does not exist",
    "[a](#gone)": "contains a link '#gone', but there is no such anchor",
    "[a](../CHANGELOG.md#gone)": "does not contain an anchor '#gone'",
    "[a][small.gone]": "Could not find cross-reference target 'small.gone'",
    "![a](gone.svg)": "index.md links to gone.svg, which does not exist",
}


def test_broken_links_anchors_and_references_fail(small):
    fine = ["# Home", "[a](../CHANGELOG.md#a-page)", "[f][small.f]", "[a](#home)", "::: small.f"]
    status, messages, _ = small({"index.md": "\n\n".join(fine)})
    assert status == 0, messages
    status, messages, _ = small({"index.md": "\n\n".join([*fine, *FAULTS]), "lost.md": "# Lost"})
    assert status != 0
    warnings = "".join(re.findall(r"^WARNING .*(?:\n  .*)*", messages, flags=re.MULTILINE))
    assert [said for said in (*FAULTS.values(), "- lost.md") if said not in warnings] == [], messages
    status, messages, _ = small({"index.md": "# Home\n\n::: small.gone\n"})
    assert status != 0
    assert "small.gone could not be found" in messages


def test_docstrings_become_lists_of_parameters(small):
    text = """def f(size, grid):
    \"\"\"Does it.

    size: of the image,
    in pixels. grid: rows and columns. A note: this one stays.
    Returns nothing.
    \"\"\"
"""
    status, messages, site = small({"index.md": "# Home\n\n::: small.f\n", "../src/small/__init__.py": text})
    assert status == 0, messages
    items = re.findall(r"<li>\s*<p>(.*?)</p>", (site / "index.html").read_text(), flags=re.DOTALL)
    stays = "rows and columns. A note: this one stays."
    assert items == ["<code>size</code>: of the image, in pixels.", f"<code>grid</code>: {stays}"]
    assert "<p>Returns nothing.</p>" in (site / "index.html").read_text()


def test_links_out_of_the_docs_lead_to_the_repository(small):
    page = "# Home\n\n[the package](../src/small/__init__.py#L1) [the folder](../src) `[a](b)`\n\n```\n[c](d)\n```\n"
    _, messages, site = small({"index.md": page})
    html = (site / "index.html").read_text()
    assert "<p>the package the folder <code>[a](b)</code></p>" in html, messages
    assert "[c](d)" in html
    _, messages, site = small({"index.md": page}, CPVT_REPO_URL="https://example.org/me/small")
    html = (site / "index.html").read_text()
    assert '<a href="https://example.org/me/small/blob/HEAD/src/small/__init__.py#L1">the package</a>' in html, messages
    assert '<a href="https://example.org/me/small/tree/HEAD/src">the folder</a>' in html
    assert 'data-md-component="source"' not in html  # which would ask the host for stars


def test_a_notebook_is_a_page(small):
    figure = {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo=\n", "text/plain": ["<Figure>"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# Digits\n", "\n", "See [home](../docs/index.md)."]},
        {"cell_type": "code", "source": ["print(6 * 7)"], "outputs": [{"output_type": "stream", "text": ["42\n"]}]},
        {"cell_type": "code", "source": ["draw()"], "outputs": [figure]},
    ]
    status, messages, site = small(
        {"index.md": "# Home\n\n[Notebook](../examples/digits.ipynb)\n",
         "../examples/digits.ipynb": json.dumps({"cells": cells})}
    )  # fmt: skip
    assert status == 0, messages
    html = (site / "notebooks" / "digits" / "index.html").read_text()
    assert '<a href="../../">home</a>' in html
    assert ">42\n" in html
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in html
    assert '<a href="notebooks/digits/">Notebook</a>' in (site / "index.html").read_text()


@pytest.mark.parametrize("name", ["index", "install", "tutorial", "deployment"])
def test_commands_and_python_of_a_page_are_understood(name):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    commands = re.findall(r"^cpvt (.*?)(?:\s+#.*)?$", text, flags=re.MULTILINE)
    for command in commands:
        parse(shlex.split(command))
    blocks = re.findall(r"```(?:python)?\n(import .*?|from .*?)```", text, flags=re.DOTALL)
    for block in blocks:
        compile(block, name, "exec")
    assert commands or blocks or name == "install"


@pytest.mark.parametrize("name", ["index", "deployment"])
def test_the_python_of_a_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "deployment":
        cpvt.export("cpvt_mini_peg5_gap", "model.onnx")
        Image.new("RGB", (90, 60)).save("photo.jpg")
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), flags=re.DOTALL):
        exec(compile(block, name, "exec"), {})


def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "tutorial.md").read_text()
    make_images, run_file = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    train, sweep, untold, report, predict, export, _ = re.findall(r"^cpvt (.*)$", text, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(make_images, "tutorial", "exec"), {})
    assert len(list(tmp_path.glob("images/*/*.png"))) == 1797
    main(shlex.split(train.replace("--epochs 10", "--epochs 1 --limit 64")))
    for command in (sweep, untold):
        main(shlex.split(command.replace("24 32 48 64 96", "32 48 --limit 8")))
    capsys.readouterr()
    for command in (report, predict, export):
        main(shlex.split(command))
    said = capsys.readouterr().out
    assert re.search(r"^images/digit-3/0003.png  32x32 read at 32x32  digit-\d [\d.]+%  digit-\d", said, re.MULTILINE)
    assert re.search(r"^digits.onnx: equal to eager within \S+ at 5 other sizes, scale fit$", said, re.MULTILINE)
    exec(compile(run_file, "tutorial", "exec"), {})
    assert re.fullmatch(r"32 digit-\d\n48 digit-\d\n64 digit-\d\n", capsys.readouterr().out)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_call_what_exists(path):
    workflow = yaml.safe_load(path.read_text())
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    assert {command.removeprefix("make ") for command in commands} <= targets
    assert all(step["uses"].startswith("actions/") for step in steps if "uses" in step)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    if path.stem == "tests":
        assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] in commands
        oldest = re.search(r'requires-python = ">=(.*?)"', (ROOT / "pyproject.toml").read_text())[1]
        assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"][0] == oldest


@pytest.fixture
def address(site):
    """Serves the site on this machine, and yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def browser(tmp_path):
    with phone(tmp_path / "profile") as driver:
        yield driver


def test_pages_fit_a_phone_and_ask_no_other_host(address, browser):
    for page in PHONE:
        browser.get(f"{address}/{page}/")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
        assert len(loaded) > 3
        assert [url for url in loaded if not url.startswith((address, "data:"))] == [], page
