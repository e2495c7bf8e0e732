"""A small comparison from Python: two encodings, one epoch, on your folder of images or on embedded digits."""

import sys
from pathlib import Path

import cpvt
from cpvt.config import CompareConfig, DataConfig, OptimConfig


def main(out: str = "runs/example", data: str = "digits") -> None:
    config = CompareConfig(
        out=out,
        encodings=("learned", "peg"),
        canvas_sizes=(32, 48),
        resize_sizes=(32,),
        optim=OptimConfig(epochs=1, batch_size=64),
        dataset=DataConfig(data=data),
    )
    folder = cpvt.compare(
        config, on_row=lambda row: print(row.encoding, row.pool, row.protocol, row.size, row.accuracy)
    )
    print("the page:", Path(cpvt.report(folder)))


if __name__ == "__main__":  # trainings run in separate processes, which import this file
    main(*sys.argv[1:])
