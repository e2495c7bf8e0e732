"""Every option, once, as a field of a frozen dataclass: the command line, files and models are made from these.

Standard library only, so that `cpvt --help` is quick. Names are checked where they are used.
"""

from cpvt.config.base import (
    MAX_IMAGE_PIXELS,
    POOL_NAMES,
    POOLS,
    TOKEN_BUDGET,
    Options,
    Precision,
    ProgressCallback,
    Size,
    differences,
    encoding_name,
    ignore_progress,
    options_from,
    parse_size,
    refuse_other,
    sides,
    size_label,
    split_options,
    takes_options,
)
from cpvt.config.data import DataConfig
from cpvt.config.evaluation import (
    ConvertConfig,
    DemoConfig,
    ExportConfig,
    InfoConfig,
    ListConfig,
    PredictConfig,
    ProbeConfig,
    ReportConfig,
    SweepConfig,
)
from cpvt.config.legacy import RENAMED
from cpvt.config.model import ExternalConfig, ModelConfig
from cpvt.config.optimisation import OptimConfig
from cpvt.config.runtime import RuntimeConfig
from cpvt.config.training import CompareConfig, Retrofit, RetrofitConfig, TrainConfig

__all__ = [
    "MAX_IMAGE_PIXELS",
    "POOLS",
    "POOL_NAMES",
    "RENAMED",
    "TOKEN_BUDGET",
    "CompareConfig",
    "ConvertConfig",
    "DataConfig",
    "DemoConfig",
    "ExportConfig",
    "ExternalConfig",
    "InfoConfig",
    "ListConfig",
    "ModelConfig",
    "OptimConfig",
    "Options",
    "Precision",
    "PredictConfig",
    "ProbeConfig",
    "ProgressCallback",
    "ReportConfig",
    "Retrofit",
    "RetrofitConfig",
    "RuntimeConfig",
    "Size",
    "SweepConfig",
    "TrainConfig",
    "differences",
    "encoding_name",
    "ignore_progress",
    "options_from",
    "parse_size",
    "refuse_other",
    "sides",
    "size_label",
    "split_options",
    "takes_options",
]
