"""Quantise an exported file: the weights of its linear layers become int8, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

AGREEMENT = 0.5  # least fraction of equal answers; 8 bits keep nearly all of them, so below it something is wrong


class Quantised(NamedTuple):
    """How a quantised file answers next to the model in eager mode, and its size next to that in float32."""

    agreement: float  # fraction of images with the same top-1 answer
    error: float  # largest difference of logits, relative to the largest logit
    images: int  # that both answered
    bytes_before: int
    bytes: int

    def __str__(self) -> str:
        """One line: agreement, the largest difference, and both sizes."""
        before, after = (f"{number / 2**20:.1f} MiB" for number in (self.bytes_before, self.bytes))
        return (
            f"then quantised to int8: {self.agreement:.1%} of the answers to {self.images} random images are the "
            f"model's, logits differ by up to {self.error:.1%} of the largest; {before} became {after}"
        )


def quantise(path: Path) -> None:
    """Replace an .onnx file by one with int8 weights, a scale per output channel; sizes and metadata stay.

    Inputs of linear layers are quantised when the file runs, from their own range: no calibration images are needed.
    Convolutions (the patch embedding and PEG), norms, attention and tables of positions stay in float32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = onnx.load(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    # the exporter has folded constants and inferred shapes; without this mark a warning goes to the root logger
    onnx.helper.set_model_props(proto, {"onnx.quant.pre_process": "onnxruntime.quant"})
    onnx.save(proto, path)
    others = [node.name for node in proto.graph.node if node.op_type == "MatMul" and not _is_linear(node)]
    quantize_dynamic(
        path, path, op_types_to_quantize=["MatMul"], nodes_to_exclude=others, per_channel=True,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, path)


def _is_linear(node: Any) -> bool:
    """Whether a product is that of a linear layer, by the exporter's note; others have tables, or no weights."""
    return any(entry.key == "namespace" and "aten.linear" in entry.value for entry in node.metadata_props)


def compare_answers(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float, int]:
    """Agreement of the top-1 answers, the largest difference of logits, relative to the largest logit, and images.

    pairs: expected and found logits (B, classes) of some batches.
    """
    equal, images, error = 0, 0, 0.0
    for expected, found in pairs:
        equal += int(((expected.argmax(1) == found.argmax(1)) & found.isfinite().all(1)).sum())
        images += len(expected)
        error = max(error, float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)))
    return equal / images, error, images
