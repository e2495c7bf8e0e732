"""Serves the demo until it is interrupted."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cpvt.config import DemoConfig
from cpvt.demo.samples import write_samples
from cpvt.demo.views import Viewer


def serve(config: DemoConfig) -> dict[str, Any]:
    """Serve the page until it is interrupted; prints its address as a JSON object once it is up.

    Raises ValueError where Gradio is missing, for a port that is taken, and for a model that cannot be shown.
    """
    if config.port is not None:
        _check_port(config.host, config.port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    local = [os.environ.get("no_proxy", ""), "localhost", config.host]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, local))  # Gradio asks whether it is up
    try:
        from cpvt.demo.page import build_page, look
    except ImportError as error:
        raise ValueError(
            f"the demo needs a package that is not installed ({error}): pip install 'cpvt[demo]'"
        ) from error
    viewer = Viewer(config.run, config.device, config.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads are gone when the demo ends
        samples = write_samples(Path(folder), viewer.adapter.class_names)
        page = build_page(viewer, config.run, samples)
        _, address, _ = page.launch(
            server_name=config.host, server_port=config.port, inbrowser=config.browser, share=False, quiet=True,
            prevent_thread_lock=True, ssr_mode=False, footer_links=[], **look(),
        )  # fmt: skip
        print(f"{config.run} is shown at {address} (Ctrl-C stops the demo)")
        print(json.dumps({"run": config.run, "url": address}), flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("cpvt: the demo has stopped", file=sys.stderr)
            raise SystemExit(130) from None
        finally:
            page.close(verbose=False)


def _check_port(host: str, port: int) -> None:
    """Raise ValueError where nothing can listen, before the seconds that a start takes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ValueError(
            f"nothing can listen on {host}, port {port} ({error}); choose another --port, or none"
        ) from error
