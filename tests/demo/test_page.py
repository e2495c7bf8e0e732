"""The demo as its users have it: `cpvt demo` in a process of its own, through Gradio's client and in Chromium."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from urllib.parse import urlparse
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

import cpvt
from cpvt.adapters import adapter_of
from cpvt.data import Transform
from cpvt.demo.views import Viewer

gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

RUN = "cpvt_mini_peg5_gap"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "http_proxy": "http://127.0.0.1:9"}


def start(*arguments):
    """A demo on a free port, and its address."""
    command = [sys.executable, "-m", "cpvt", "demo", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in process.stdout:
        if line.startswith("{"):
            return process, json.loads(line)
    raise AssertionError(process.communicate()[1])


@pytest.fixture(scope="module")
def demo():
    """The address of the demo of the model that comes with the package; afterwards it is interrupted, as by Ctrl-C."""
    process, said = start()
    assert said["run"] == RUN
    yield said["url"]
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert not rest  # the JSON object was the last line
    assert errors.count("Traceback") == errors.count("gradio.exceptions.Error"), errors  # of refused values
    assert "the demo has stopped" in errors


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
    label, note = client.predict(given, "64", "resize", "guessed", 3, api_name="/answer")
    (wanted,) = cpvt.predict(RUN, [photo], size=64, scale="auto", top=3, device="cpu")
    assert [each["label"] for each in label["confidences"]] == [name for name, _ in wanted.classes]
    assert [each["confidence"] for each in label["confidences"]] == pytest.approx([p for _, p in wanted.classes])
    assert "90x70 pixels was read at 64x64, and the model was told scale" in note


def test_every_view_has_an_address(client, photo):
    given = gradio_client.handle_file(str(photo))
    assert client.predict(given, 2, api_name="/curves").count("<svg") == 6
    assert client.predict(given, "32", "canvas", "told", api_name="/pegs").count("<img") == 5
    attention = client.predict(given, "40", "resize", "protocol", 2, "every patch", api_name="/attention")
    with Image.open(attention) as picture:
        assert picture.size == (400, 400)


@pytest.mark.parametrize("names", [("crane", "crane", "other"), ("only",)])
def test_a_page_shows_every_class_of_a_model(photo, names):
    from cpvt.demo.page import Actions, build_page

    model = cpvt.create_model("cpvt_mini", img_size=16, patch_size=4, num_classes=len(names), depth=1).eval()
    viewer = Viewer(adapter_of(model, "small", transform=Transform((0.5,) * 3, (0.2,) * 3), class_names=names))

    async def build():  # outside of an event loop Gradio makes one, and leaves it open
        return build_page(viewer, "small", [photo])

    page = asyncio.run(build())
    controls = {block.elem_id: block for block in page.blocks.values()}
    assert controls["top"].visible == (len(names) > 1)
    offered = [value for _, value in controls["scale"].choices]
    assert ("guessed" in offered) == (len(names) > 1)
    label, _ = Actions(viewer).answer(str(photo), "16", "resize", "protocol", len(names))
    assert len(label) == len(names)
    assert sum(label.values()) == pytest.approx(1)
    assert Actions(viewer).curves(str(photo), 2).count("<svg") == (6 if len(names) > 1 else 4)  # nothing to guess by


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
        (["--port", "TAKEN"], r"nothing can listen on 127.0.0.1, port \d+ .* choose another --port"),
        (["--port", "0"], "port must be 1 or more"),
        (["nowhere/run"], "'nowhere/run' is no run's folder"),
        ([], r"a package that is not installed .*: pip install 'cpvt\[demo\]'"),
    ],
)
def test_what_cannot_start_says_what_to_do(demo, monkeypatch, capsys, arguments, words):
    from cpvt.cli import main

    monkeypatch.setitem(sys.modules, "gradio", None)  # as where the extra is missing
    monkeypatch.delitem(sys.modules, "cpvt.demo.page", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["demo", *(each.replace("TAKEN", str(urlparse(demo).port)) for each in arguments)])
    assert re.search(words, capsys.readouterr().err)


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SWITCHES = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window, at the width of a phone."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    yield driver
    driver.quit()


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
