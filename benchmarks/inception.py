"""How fast the FID Inception takes pictures, by how many go through it at once; rounds in turn, medians.

python benchmarks/inception.py --inception assets/inception.safetensors
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from argenzoo.device import checked_device, hardware
from argenzoo.evaluation.features import CHUNK
from argenzoo.evaluation.inception import load_inception

COUNTS = (1, 2, 5, 10, 25, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inception", metavar="FILE", help="weights (default: the package's, or a download)")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    device = checked_device(arguments.device)
    inception = load_inception(arguments.inception, device)
    pictures = torch.randint(
        0, 256, (CHUNK, 3, arguments.size, arguments.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    seconds: dict[int, list[float]] = {count: [] for count in COUNTS}
    for number in range(arguments.rounds + 1):
        for count, spent in seconds.items():
            began = time.perf_counter()
            for part in pictures.to(device).split(count):
                last = inception.features(part)["pool"]
            last.cpu()  # a GPU is done now
            if number:  # the first is a warm-up
                spent.append(time.perf_counter() - began)
    whole = median(seconds[CHUNK])
    print(f"{hardware(device)}, {arguments.size} px, {arguments.rounds} rounds\n")
    print(f"| at once | pictures / s | against {CHUNK} at once |\n|---|---|---|")
    for count, spent in seconds.items():
        ratio, low, high = (whole / value for value in (median(spent), max(spent), min(spent)))
        print(f"| {count} | {CHUNK / median(spent):.1f} | {ratio:.2f} ({low:.2f} to {high:.2f}) |")


if __name__ == "__main__":
    main()
