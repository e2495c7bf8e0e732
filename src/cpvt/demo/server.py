"""Serves the demo until it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpvt.config import DemoConfig
from cpvt.demo.samples import write_samples
from cpvt.demo.views import Viewer


def serve(config: DemoConfig) -> dict[str, Any]:
    """Serve the page until it is interrupted; prints its address as a JSON object once it is up.

    Raises ValueError where Gradio is missing, for a port that is taken, and for a model that cannot be shown.
    """
    _check_address(config.host, config.port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    _pass_by_proxy("localhost", config.host)  # Gradio asks whether it is up
    with _ended_by_signals(), tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads are gone when the demo ends; Gradio reads it when imported
        try:
            from cpvt.demo.page import build_page, look
        except ImportError as error:
            raise ValueError(
                f"the demo needs a package that is not installed ({error}): pip install 'cpvt[demo]'"
            ) from error
        viewer = Viewer(config.run, config.device, config.checkpoint)
        samples = write_samples(Path(folder), viewer.adapter.class_names)
        page = build_page(viewer, config.run, samples)
        _, address, _ = page.launch(
            server_name=config.host, server_port=config.port, inbrowser=config.browser, share=False, quiet=True,
            prevent_thread_lock=True, ssr_mode=False, footer_links=[], **look(),
        )  # fmt: skip
        try:
            print(f"{config.run} is shown at {address} (Ctrl-C stops the demo)")
            print(json.dumps({"run": config.run, "url": address}), flush=True)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        finally:
            print("cpvt: the demo has stopped", file=sys.stderr)
            page.close(verbose=False)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let what ends a process (docker stop, a closed terminal) raise SystemExit, so that folders are removed."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    ending = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [each for each in ending if signal.getsignal(each) is signal.SIG_DFL]  # nohup ignores one
    for each in taken:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def _pass_by_proxy(*hosts: str) -> None:
    """Add hosts to those that are asked without a proxy, which are read in two spellings."""
    given = [os.environ.get(name, "").split(",") for name in ("no_proxy", "NO_PROXY")]
    direct = dict.fromkeys(name.strip() for name in (*given[0], *given[1], *hosts) if name.strip())
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in direct else ",".join(direct)  # * stands alone


def _check_address(host: str, port: int | None) -> None:
    """Raise ValueError where nothing can listen, before the seconds that a start takes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        at, other = (host, "--host") if port is None else (f"{host}, port {port}", "--host or --port")
        raise ValueError(f"nothing can listen on {at} ({error}); choose another {other}") from error
