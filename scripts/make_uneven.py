"""A network that computes the same with channels of very different size: what equalization across layers is for.

    python scripts/make_uneven.py yolov8n-seg.pt uneven.pt --spread 30
    edgeseg export uneven.pt --format onnx,tflite --int8 data=YOUR.yaml

The channels of the prototypes' transposed convolution are multiplied by up to ``--spread`` either way, the weights that read
them are divided by the same factors.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint


def main() -> None:
    """Parse the command line, write the checkpoint, print the largest difference of an output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--spread", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random = torch.Generator().manual_seed(args.seed)
    network = load_checkpoint(args.model).eval()
    (up,) = (m for m in network.modules() if isinstance(m, torch.nn.ConvTranspose2d))
    (parent,) = (m for m in network.modules() if up in list(m.children()))
    children = list(parent.children())
    reader = next(m for m in children[children.index(up) + 1].modules() if isinstance(m, torch.nn.Conv2d))
    factor = torch.exp((2 * torch.rand(up.out_channels, generator=random) - 1) * math.log(args.spread))
    x = torch.rand(1, 3, 320, 320, generator=random)
    with torch.no_grad():
        before = network.view("raw")(x)
        up.weight *= factor[None, :, None, None]
        if up.bias is not None:
            up.bias *= factor
        reader.weight /= factor[None, :, None, None]
        after = network.view("raw")(x)
    save_checkpoint(args.out, network)
    print(f"{args.out}: outputs differ by {max(float((a - b).abs().max()) for a, b in zip(before, after)):.1e}")


if __name__ == "__main__":
    main()
