"""The page of the demo, built with Gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from cpvt.config import size_label
from cpvt.config.base import some_names
from cpvt.data import BadImageError
from cpvt.data.protocols import TABLE
from cpvt.demo.panels import curve_panels, enlargement, overlay, peg_panels, read_note
from cpvt.demo.views import CLASS_TOKEN, EVERY_PATCH, ONE_PATCH, PROTOCOLS, Viewer

QUERIES = {
    CLASS_TOKEN: "the class token, which the head reads",
    EVERY_PATCH: "the mean over all patches",
    ONE_PATCH: "one patch: click the image",
}
SCALES = {
    "protocol": "as cpvt predict",
    "true": "true",
    "estimated": "estimated from the image",
    "off": "none",
}
CURVE_WORDS = """### Does the answer hold at other sizes?
Each line is the probability of a class when the image is shown at that size. Flat and high is good. Under *resize* the
object grows. Under *canvas* the image keeps its training size and stands at a random place on a larger canvas."""
SCALE_WORDS = """ *Object scale*: how many times larger objects are, in tokens, than in training. *Estimated*:
the scale of the lowest entropy; from one image that is a weak guess. *None*: as published."""
ATTENTION_WORDS = """### Where a block looks
Bright patches get more attention, the mean over heads. The image is what the model saw at the chosen size."""
PEG_WORDS = """### What PEG added
A PEG mixes neighbouring patches into each patch: so a patch learns where it stands. Bright patches were changed most;
the numbers are the length of the change, its mean and its range, relative to a token's length."""
OTHERS_WORDS = "Attention and what PEG adds are shown for cpvt's own models; this one is another library's."
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(190px, 100%), 1fr)); gap: 12px; }
.maps { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
.panels figure { margin: 0; min-width: 0; }
.panels svg { width: 100%; max-width: 420px; height: auto; }
#image img { width: 100%; height: 100%; object-fit: contain; }
.panels img { width: 100%; border-radius: 6px; margin: 0; }
.panels figcaption { font-size: .85rem; opacity: .85; }
#attention .image-frame, #attention img { width: 100%; min-height: 200px; image-rendering: pixelated; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 8px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
"""
FONTS = {
    "font": ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    "font_mono": ["ui-monospace", "Menlo", "Consolas", "monospace"],
}
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # one event at a time uses the model


def build_page(viewer: Viewer, name: str, samples: list[Path]) -> Any:
    """The page of a model, a `gradio.Blocks`; samples: files of example images, the first is shown at the start."""
    actions = Actions(viewer)
    with gr.Blocks(title=f"cpvt demo: {name}", analytics_enabled=False) as page:
        gr.Markdown(introduction(viewer, name))
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = _image(samples)
                label = gr.Label(label="Top classes", elem_id="label")
                note = gr.Markdown(elem_id="note")
                shown, top = _controls(viewer)
            with gr.Column(scale=5, min_width=280):
                gr.Markdown(CURVE_WORDS + (SCALE_WORDS if viewer.adapter.takes_scale else ""))
                curves = gr.HTML(elem_id="curves")
                changes = [page.load, *(each.change for each in (image, *shown))]
                if viewer.own_model is None:
                    gr.Markdown(OTHERS_WORDS)
                else:
                    _inner_views(viewer, actions, [image, *shown], changes)
        gr.on([page.load, image.change, top.change], actions.curves, [image, top], curves, **MODEL)
        gr.on([*changes, top.change], actions.answer, [image, *shown, top], [label, note], **MODEL)
    return page


def _image(samples: list[Path]) -> Any:
    """The image and its examples."""
    image = gr.Image(
        str(samples[0]), type="filepath", image_mode=None, sources=["upload", "clipboard"], height=250, buttons=[],
        label="Image", elem_id="image",
    )  # fmt: skip
    image.preprocess = lambda payload: payload and payload.path  # decoded by us: our limit of pixels, our messages
    gr.Examples([[str(sample)] for sample in samples], image, label="Examples", elem_id="examples")
    return image


def _controls(viewer: Viewer) -> tuple[list[Any], Any]:
    """Size, protocol and scale; and the number of classes."""
    labels = list(map(size_label, viewer.sizes))
    about = f"Trained at {size_label(viewer.train_size)}; predictions use {size_label(viewer.recommended)} by default."
    size = gr.Radio(labels, value=size_label(viewer.recommended), label="Size, pixels", info=about, elem_id="size")
    protocols = [(f"{each}: {TABLE[each].title}", each) for each in PROTOCOLS]
    protocol = gr.Radio(protocols, value="resize", label="How a size is made", elem_id="protocol")
    scales = [(about, each) for each, about in SCALES.items() if each in ("protocol", *viewer.modes)]
    takes_scale = viewer.adapter.takes_scale
    scale = gr.Radio(scales, value="protocol", label="Object scale", visible=takes_scale, elem_id="scale")
    most = min(5, len(viewer.adapter.class_names or range(5)))
    top = gr.Slider(  # a slider needs two ends: for a model of one class it is hidden
        1, max(most, 2), value=min(3, most), step=1, label="Classes shown", visible=most > 1, elem_id="top"
    )
    return [size, protocol, scale], top


def _inner_views(viewer: Viewer, actions: Actions, shown: list[Any], changes: list[Any]) -> None:
    """The panels of attention and of PEG, for a model of ours."""
    blocks = list(range(1, viewer.blocks + 1))
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.Markdown(ATTENTION_WORDS)
            block = gr.Radio(blocks, value=blocks[:2][-1], label="Block", elem_id="block")
            queries = [(QUERIES[each], each) for each in viewer.queries]
            query = gr.Radio(queries, value=viewer.queries[0], label="Who looks", elem_id="query")
            attention = gr.Image(
                label="Attention", format="png", interactive=False, buttons=[], show_label=False, elem_id="attention"
            )
        with gr.Column(scale=3, min_width=280):
            gr.Markdown(PEG_WORDS)
            pegs = gr.HTML(elem_id="pegs")
    patch = gr.State((0, 0))
    chosen = [*shown, block, query, patch]
    gr.on(changes, actions.pegs, shown, pegs, **MODEL)
    gr.on([*changes, block.change, query.input], actions.attention, chosen, attention, **MODEL)
    attention.select(actions.choose, [shown[0], shown[1], shown[2]], [query, patch], **MODEL).then(
        actions.attention, chosen, attention, show_progress="hidden", **MODEL
    )


def look() -> dict[str, Any]:
    """The theme and the style of the page, for `launch`: fonts of the visitor's system, so that none is fetched."""
    return {"theme": gr.themes.Soft(**FONTS), "css": CSS}


class Actions:
    """What the page calls: each takes the values of its controls and returns those of its outputs, as text and arrays.

    An image that cannot be used is said once, by `answer`; the other outputs are empty then.
    """

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.sizes = {size_label(size): size for size in viewer.sizes}

    def answer(self, path: str | None, size: str, protocol: str, scale: str, top: int) -> tuple[Any, str]:
        """Class -> probability, and how the image was read; gradio.Error for an image that cannot be used."""
        if path is None:
            return None, "Upload an image, or choose an example."
        try:
            image = self.viewer.open_image(path)
            found = self.viewer.predict(image, self.sizes[size], protocol, scale, int(top))
        except ValueError as error:  # also a size that the model refuses
            raise gr.Error(html.escape(str(error)), title="This image cannot be used", print_exception=False) from error
        return dict(found.classes), read_note(found, self.viewer.adapter.takes_scale)

    def curves(self, path: str | None, top: int) -> str:
        """The panels of curves, HTML."""
        image = self._open(path)
        return "" if image is None else curve_panels(self.viewer.curves(image, int(top)), self.viewer.train_size)

    def pegs(self, path: str | None, size: str, protocol: str, scale: str) -> str:
        """The panels of PEGs, HTML."""
        image = self._open(path)
        if image is None:
            return ""
        maps = self.viewer.pegs(image, self.sizes[size], protocol, scale)
        return peg_panels(maps, self.viewer.seen(image, self.sizes[size], protocol), self.viewer.patch_size)

    def attention(
        self, path: str | None, size: str, protocol: str, scale: str, block: int, query: str, patch: Sequence[int]
    ) -> Any:
        """Attention over the image, (H, W, 3)."""
        image = self._open(path)
        if image is None:
            return None
        heat = self.viewer.attention(image, self.sizes[size], protocol, scale, int(block), query, patch)
        seen = self.viewer.seen(image, self.sizes[size], protocol)
        return overlay(seen, heat, self.viewer.patch_size, patch if query == ONE_PATCH else None)

    def choose(self, path: str | None, size: str, protocol: str, event: gr.SelectData) -> tuple[str, tuple[int, int]]:
        """The query and the patch that were clicked."""
        image = self._open(path)
        assert image is not None  # there is nothing to click without it
        unit = self.viewer.patch_size * enlargement(self.viewer.seen(image, self.sizes[size], protocol))
        x, y = event.index
        return ONE_PATCH, (int(y) // unit, int(x) // unit)

    def _open(self, path: str | None) -> Image.Image | None:
        try:
            return None if path is None else self.viewer.open_image(path)
        except BadImageError:
            return None


def introduction(viewer: Viewer, name: str) -> str:
    """The head of the page: what this is, and what the model knows, Markdown."""
    names = viewer.adapter.class_names
    known = some_names(names or ()) if len(names or ()) > 12 else ", ".join(names or ())
    knows = f"It knows {known}, and nothing else" if names else "The names of its classes are not known"
    return (
        f"# One image, many sizes\n`{name}` was trained at {size_label(viewer.train_size)} pixels. {knows}: any image "
        "gets one of its classes. Nothing leaves this machine."
    )
