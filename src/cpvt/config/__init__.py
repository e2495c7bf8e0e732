"""All that can be chosen, as frozen dataclasses: the one list from which command line, files and models are made.

Standard library only, so that `cpvt --help` is quick; names are checked where they are used.
"""

from cpvt.config.base import (
    POOLS,
    PROTOCOLS,
    SWEEP_PROTOCOLS,
    TOKEN_BUDGET,
    Size,
    Watch,
    differences,
    ignore_progress,
    parse_size,
    refuse_other,
    sides,
    split_options,
)
from cpvt.config.models import ForeignConfig, ModelConfig
from cpvt.config.training import CompareConfig, RuntimeConfig, OptimConfig, Retrofit, RetrofitConfig, DataConfig, TrainConfig
from cpvt.config.using import (
    BenchConfig,
    ExportConfig,
    ListConfig,
    PredictConfig,
    ProbeConfig,
    ReportConfig,
    SweepConfig,
)

__all__ = [
    "POOLS",
    "PROTOCOLS",
    "SWEEP_PROTOCOLS",
    "TOKEN_BUDGET",
    "BenchConfig",
    "CompareConfig",
    "RuntimeConfig",
    "ExportConfig",
    "ForeignConfig",
    "ListConfig",
    "ModelConfig",
    "PredictConfig",
    "ProbeConfig",
    "OptimConfig",
    "ReportConfig",
    "Retrofit",
    "RetrofitConfig",
    "Size",
    "DataConfig",
    "SweepConfig",
    "TrainConfig",
    "Watch",
    "differences",
    "ignore_progress",
    "parse_size",
    "refuse_other",
    "sides",
    "split_options",
]
