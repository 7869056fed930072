"""Write a trained style encoder as it ships. Its README.md is left as it is.

Its weights become float16, rounded to five bits behind the leading one, which a wheel packs into two thirds.

    PYTHONPATH=. python tools/mini_base/ship_encoder.py checkpoints/encoders/mini/finetune checkpoints/mini/encoder
"""
import argparse
import shutil
from pathlib import Path

import numpy as np

from styleblend.adapters.encoder_files import CONFIG, WEIGHTS
from styleblend.files.tensor_files import read_metadata, read_safetensors, write_safetensors


def rounded(values):
    """As float16 with its last five bits zero: within 1/64 of what they were."""
    bits = values.astype(np.float16).view(np.uint16).astype(np.uint32)
    return ((bits + 16) & 0xFFE0).astype(np.uint16).view(np.float16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trained", type=Path, help="a folder that `train encoder` has written")
    parser.add_argument("shipped", type=Path, help="the folder to write")
    args = parser.parse_args()
    args.shipped.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.trained / CONFIG, args.shipped / CONFIG)
    halves = {name: rounded(values) for name, values in read_safetensors(args.trained / WEIGHTS).items()}
    write_safetensors(args.shipped / WEIGHTS, halves, read_metadata(args.trained / WEIGHTS))


if __name__ == "__main__":
    main()
