"""`training.train` on a drawn pack without files, run by tests in one process or several."""

import inspect
import sys

import torch

from tests.unit.test_procedural import pack
from training import train
from training.synth.material.pack import Pack


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    drawn = inspect.unwrap(pack)()
    Pack.load = lambda folder: drawn
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
