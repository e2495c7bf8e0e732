"""One ONNX file for images of any size, run with onnxruntime alone."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime


def classify(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """Probabilities (B, classes) of normalised images (B, C, H, W), any H and W."""
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.astype(np.float32)})
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


with TemporaryDirectory() as folder:
    file = Path(folder) / "model.onnx"

    import cpvt  # only to write the file; `cpvt export runs/peg` exports a trained run with its class names

    cpvt.export(cpvt.create_model("cpvt_micro_gap", num_classes=10), file)

    session, draw = onnxruntime.InferenceSession(file), np.random.default_rng(0)
    print({key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()})
    for height, width in ((32, 32), (48, 96), (33, 70)):
        print(height, width, classify(session, draw.random((2, 3, height, width))).shape)
