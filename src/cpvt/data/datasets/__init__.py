"""THE TABLE of data sources, by the form of their names. A new one is one file here and one line below."""

from __future__ import annotations

from dataclasses import replace

from cpvt.config import DataConfig
from cpvt.data.base import DataSet, DataSource
from cpvt.data.datasets.digits import DIGITS
from cpvt.data.datasets.folders import FOLDER
from cpvt.data.datasets.shards import SHARDS
from cpvt.data.datasets.streams import STREAM, open_stream
from cpvt.data.datasets.timm_sets import HUGGING_FACE, REMOTE_SHARDS, TENSORFLOW, TORCHVISION

__all__ = ["TABLE", "UnknownDataError", "describe_datasets", "find_source", "open_data", "open_stream"]

TABLE: dict[str, DataSource] = {  # the first that matches a name opens it
    "digits": DIGITS,
    "PATH": FOLDER,
    "torch/NAME": TORCHVISION,
    "hfds/NAME": HUGGING_FACE,
    "hfids/NAME": STREAM,
    "tfds/NAME": TENSORFLOW,
    "wds/PATH": SHARDS,
    "wds/URL": REMOTE_SHARDS,
}


class UnknownDataError(ValueError):
    """A name that no source of data sets knows, such as a folder that does not exist."""


def open_data(
    data: str | DataConfig, root: str | None = None, mode: str | None = None, limit: int | None = None
) -> DataSet:
    """Open a data set: 'digits', a folder, or a name that timm's dataset factory takes; or what options say.

    root: folder of the files of a named set. mode: 'RGB' or 'L'; by default grey for digits, RGB for the rest.
    limit: most images of each part, drawn with a fixed seed; the set's name then says so.
    Raises ValueError for an unknown name, listing the known, for a root that the set does not read, and for a limit on
    a streamed set.
    """
    if isinstance(data, DataConfig):
        return open_data(data.data, data.data_dir, mode, data.limit)
    source = find_source(data)
    if root is not None and not source.reads_root:
        raise ValueError(
            f"data_dir (--data-dir) '{root}' does nothing with the data set '{data}': it says where files of a named "
            "set are, such as torch/cifar10; give a folder of images as data (--data)"
        )
    return replace(source.open(data, root, mode or source.mode), name=data).limited(limit)


def find_source(data: str) -> DataSource:
    """The source that opens a name; UnknownDataError, listing the known, where there is none."""
    for source in TABLE.values():
        if source.matches(data):
            return source
    known = "\n".join(f"  {form}: {line}" for form, line in describe_datasets().items())
    raise UnknownDataError(f"unknown data set '{data}': no such folder and no such name. Known:\n{known}")


def describe_datasets() -> dict[str, str]:
    """Form of the names -> one line for a newcomer."""
    return {form: source.description for form, source in TABLE.items()}
