"""The demo as its users have it: `cpvt demo` in a process of its own, through Gradio's client and in Chromium."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

import cpvt
from cpvt.adapters import adapter_of
from cpvt.cli import main, parse
from cpvt.cli.help import verb_page
from cpvt.config import DemoConfig
from cpvt.data import Transform
from cpvt.demo.server import _pass_by_proxy
from cpvt.demo.views import Viewer
from tests.browser import phone

gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

RUN = "cpvt_mini_peg5_gap"
DEMO = (sys.executable, "-m", "cpvt", "demo")
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "http_proxy": "http://127.0.0.1:9"}


@contextmanager
def running(folder, *command):
    """A process, once it has printed a JSON object; that; and the file of its errors. It does not outlive the block.

    folder: of the file, and of the process's temporary files.
    """
    environment = {**ENVIRONMENT, "TMPDIR": str(folder / "temporary")}
    (folder / "temporary").mkdir()
    with (
        open(folder / "errors.txt", "w") as errors,  # a pipe that nobody reads fills up
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        hung = threading.Timer(120, process.kill)
        hung.start()
        try:
            said = next((line for line in process.stdout if line.startswith("{")), None)
            assert said is not None, (folder / "errors.txt").read_text()
            hung.cancel()
            yield process, json.loads(said), folder / "errors.txt"
        finally:
            hung.cancel()
            process.kill()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The address of the demo of a model that comes with the package; afterwards it is interrupted, as by Ctrl-C."""
    with running(tmp_path_factory.mktemp("demo"), *DEMO, RUN) as (process, said, errors):
        assert said["run"] == RUN
        yield said["url"]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 130
        assert not rest  # the JSON object was the last line
        text = errors.read_text()
        assert text.count("Traceback") == text.count("gradio.exceptions.Error"), text  # of refused values
        assert "the demo has stopped" in text


def test_a_demo_that_is_terminated_removes_its_folder(tmp_path):
    with running(tmp_path, *DEMO) as (process, _, errors):
        assert list((tmp_path / "temporary").iterdir())
        process.terminate()  # as docker stop and systemd do
        process.communicate(timeout=20)
        assert process.returncode == 143
        assert list((tmp_path / "temporary").iterdir()) == []
        assert errors.read_text().endswith("the demo has stopped\n")


def test_no_process_outlives_a_test_that_fails_or_waits_for_a_reader(tmp_path):
    endless = "import sys, time; sys.stderr.write('x' * 10**6); print('{}', flush=True); time.sleep(20)"
    with pytest.raises(RuntimeError, match="failed"), running(tmp_path, sys.executable, "-c", endless) as (process, *_):
        raise RuntimeError("failed")
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "photo.png"
    values = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture(scope="module")
def client(demo):
    return gradio_client.Client(demo, verbose=False)


def test_the_answer_is_that_of_predict(client, photo):
    given = gradio_client.handle_file(str(photo))
    label, note = client.predict(given, "64", "resize", "estimated", 3, api_name="/answer")
    (wanted,) = cpvt.predict(RUN, [photo], size=64, scale="auto", top=3, device="cpu")
    assert [each["label"] for each in label["confidences"]] == [name for name, _ in wanted.classes]
    assert [each["confidence"] for each in label["confidences"]] == pytest.approx([p for _, p in wanted.classes])
    assert "90x70 pixels was read at 64x64, and the model was given scale" in note


def test_every_view_has_an_address(client, photo):
    given = gradio_client.handle_file(str(photo))
    assert client.predict(given, 2, api_name="/curves").count("<svg") == 6
    assert client.predict(given, "32", "canvas", "true", api_name="/pegs").count("<img") == 5
    attention = client.predict(given, "40", "resize", "protocol", 2, "every patch", api_name="/attention")
    with Image.open(attention) as picture:
        assert picture.size == (400, 400)


@pytest.mark.parametrize("names", [("crane", "crane", "other"), ("only",)])
def test_a_page_shows_every_class_of_a_model(photo, names, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from cpvt.demo.page import Actions, build_page

    model = cpvt.create_model("cpvt_mini", img_size=16, patch_size=4, num_classes=len(names), depth=1).eval()
    viewer = Viewer(adapter_of(model, "small", transform=Transform((0.5,) * 3, (0.2,) * 3), class_names=names))

    async def build():  # outside of an event loop Gradio makes one, and leaves it open
        return build_page(viewer, "small", [photo])

    page = asyncio.run(build())
    controls = {block.elem_id: block for block in page.blocks.values()}
    assert controls["top"].visible == (len(names) > 1)
    offered = [value for _, value in controls["scale"].choices]
    assert ("estimated" in offered) == (len(names) > 1)
    label, _ = Actions(viewer).answer(str(photo), "16", "resize", "protocol", len(names))
    assert len(label) == len(names)
    assert sum(label.values()) == pytest.approx(1)
    assert Actions(viewer).curves(str(photo), 2).count("<svg") == (6 if len(names) > 1 else 4)  # nothing to estimate by


@pytest.mark.parametrize(
    ("size", "top", "words"), [("10000", 3, "not in the list of choices"), ("64", 999, "greater than maximum")]
)
def test_no_more_can_be_asked_for_than_the_page_offers(client, photo, size, top, words):
    given = gradio_client.handle_file(str(photo))
    with pytest.raises(Exception, match=words):
        client.predict(given, size, "resize", "protocol", top, api_name="/answer")


def test_an_unreadable_image_is_said_in_words_once(client, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = gradio_client.handle_file(str(tmp_path / "broken.png"))
    with pytest.raises(gradio_client.exceptions.AppError, match="broken.png"):
        client.predict(given, "64", "resize", "protocol", 3, api_name="/answer")
    assert client.predict(given, 3, api_name="/curves") == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "TAKEN"], r"nothing can listen on 127.0.0.1, port \d+ .* choose another --host or --port"),
        (["--port", "0"], "port must be from 1 to 65535; got 0"),
        (["--port", "99999"], "port must be from 1 to 65535; got 99999"),
        (["--host", "192.0.2.1"], r"nothing can listen on 192.0.2.1 .* choose another --host"),
        (["runs/a", "--browser", "runs/b"], "demo shows one model.* got cpvt demo runs/a --browser runs/b"),
        (["--run=runs/a", "runs/b"], "demo shows one model"),
        (["nowhere/run"], "'nowhere/run' is no run's folder"),
        ([], r"a package that is not installed .*: pip install 'cpvt\[demo\]'"),
    ],
)
def test_what_cannot_start_says_what_to_do(demo, monkeypatch, capsys, arguments, words):
    for name in ("no_proxy", "NO_PROXY", "GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # and its value of before afterwards
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where the extra is missing
    monkeypatch.delitem(sys.modules, "cpvt.demo.page", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["demo", *(each.replace("TAKEN", str(urlparse(demo).port)) for each in arguments)])
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    ["runs/m --browser --port 8000", "--browser runs/m --port 8000", "--port 8000 --browser runs/m",
     "--port=8000 runs/m --browser", "--port 8000 --run runs/m --browser", "--browser --run=runs/m --port 8000"],
)  # fmt: skip
def test_the_run_may_stand_anywhere(arguments):
    assert parse(["demo", *arguments.split()]) == DemoConfig("runs/m", port=8000, browser=True)


def test_the_run_may_be_left_out():
    assert parse(["demo", "--port", "8000", "--host", "::1"]) == DemoConfig(host="::1", port=8000)
    assert verb_page("demo").plain.startswith("usage: cpvt demo [RUN] [options]")


@pytest.mark.parametrize(
    ("lower", "upper", "both"),
    [("", "", "localhost,::1"), ("a.org, b.org", "B,a.org", "a.org,b.org,B,localhost,::1"), ("a.org", "*", "*")],
)
def test_hosts_that_need_no_proxy_are_kept(monkeypatch, lower, upper, both):
    monkeypatch.setenv("no_proxy", lower)
    monkeypatch.setenv("NO_PROXY", upper)
    _pass_by_proxy("localhost", "::1")
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == (both, both)


def test_the_extra_is_installed_as_the_readme_says():
    root = Path(__file__).parents[2]
    for page in ("README.md", "docs/demo.md", "docs/commands.md"):
        assert set(re.findall(r"pip install '?([^'`]*)\[demo\]", (root / page).read_text())) == {"."}, page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with phone(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


def wait(browser, what, script, seconds=30):
    """Wait until a script returns something true, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := browser.execute_script(script):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come: {browser.get_log('browser')}")


TEXT = "return document.querySelector('{}')?.innerText.includes({!r})"
PICTURE = "const e = document.querySelector('#attention img'); return e?.naturalWidth && e.src"


def test_the_page_in_a_browser(demo, browser, photo, tmp_path):
    hosts = set()

    def visited():
        for entry in browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = urlparse(message["params"]["request"]["url"])
                hosts.update({address.netloc} if address.scheme.startswith(("http", "ws")) else ())

    visited()
    hosts.clear()  # of the browser's own first page
    browser.get(demo)
    wait(browser, "the first answer", TEXT.format("#label", "ship"))
    wait(browser, "the curves", "return document.querySelectorAll('#curves svg').length == 6")
    assert browser.execute_script("return getComputedStyle(document.querySelector('.panels')).display") == "grid"
    wait(browser, "the PEGs", "return document.querySelectorAll('#pegs img').length == 5")
    browser.execute_script("document.querySelector('#attention').scrollIntoView()")
    before = wait(browser, "attention", PICTURE)

    picture = browser.find_element("css selector", "#attention img")
    side = picture.size["width"]  # of 10x10 patches; from its middle to the patch in row 2, column 6
    mouse = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    mouse.move_to_element_with_offset(picture, round(0.15 * side), round(-0.25 * side)).click().perform()
    after = wait(browser, "the attention of the patch", PICTURE.replace("e.src", f"e.src != {before!r} && e.src"))
    with urlopen(after) as file, Image.open(file) as shown:
        pixels = np.asarray(shown.convert("RGB")).astype(int)
    framed = np.abs(pixels - (90, 220, 255)).max(axis=2) < 8
    assert framed[80:120, 240:280].mean() > 0.2
    assert framed.sum() == framed[80:120, 240:280].sum()
    assert browser.execute_script("return document.querySelector('#query input:checked').value") == "one patch"

    browser.find_element("css selector", "#image input[type=file]").send_keys(str(photo))
    wait(browser, "the answer to the upload", TEXT.format("#note", "90x70"))
    wait(browser, "the end of all events", "return !document.querySelector('.generating, .pending')")
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert (width, inner) == (390, 390)
    visited()
    assert hosts == {urlparse(demo).netloc}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []

    (tmp_path / "broken.png").write_bytes(b"no image")
    browser.find_element("css selector", "#image input[type=file]").send_keys(str(tmp_path / "broken.png"))
    wait(browser, "what is wrong", TEXT.format("[data-testid=toast-body]", "broken.png"))
    assert len(browser.find_elements("css selector", "[data-testid=toast-body]")) == 1
