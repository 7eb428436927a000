"""The plain, well-written torch loop that fine-tuning is held against: one file, nothing of flowerlib in the loop.

EfficientNet-Lite0 from the same weights at 160 px, batches of 32, AdamW (3e-4 for the body, 3e-3 for the head, weight
decay 0.05) over one cycle of 8 epochs, label smoothing 0.1; cropping, mirroring, turning and colouring by Pillow in
two worker processes. As timm's recipe for fine-tuning, without what only pays on a GPU.
"""

import io
import json
import math
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance

from benchmarks.harness import Clock, Curve
from flowerlib import metrics

SIZE, BATCH, EPOCHS = 160, 32, 8


def lite0(weights: Path) -> torch.nn.Module:
    """EfficientNet-Lite0 in torch, with the weights that flowerlib uses."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


class Photographs(torch.utils.data.Dataset):
    """JPEGs in memory; each time one is asked for, it is varied anew."""

    def __init__(self, jpegs: list[bytes], labels: list[int]) -> None:
        self.jpegs, self.labels = jpegs, labels

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(io.BytesIO(self.jpegs[index]))
        image = image.rotate(random.uniform(-30, 30), Image.Resampling.BILINEAR)
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=_crop(*image.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = ImageEnhance.Brightness(image).enhance(random.uniform(0.8, 1.2))
        image = ImageEnhance.Contrast(image).enhance(random.uniform(0.8, 1.2))
        return pixels(image), self.labels[index]


def _crop(width: int, height: int) -> tuple[float, float, float, float]:
    """The box of torchvision's RandomResizedCrop: 25 to 100 % of the area, from 3:4 to 4:3."""
    for _ in range(10):
        area = random.uniform(0.25, 1.0) * width * height
        shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * shape), math.sqrt(area / shape)
        if w <= width and h <= height:
            left, top = random.uniform(0, width - w), random.uniform(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def pixels(image: Image.Image) -> torch.Tensor:
    """Return an image as the network wants it, `(3, S, S)`."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().sub(127).div(128)


def curve(
    network: torch.nn.Module,
    train: tuple[list[bytes], list[int]],
    val: tuple[list[bytes], list[int]],
    classes: int,
    epochs: int = EPOCHS,
) -> tuple[Curve, float]:
    """Train; return macro F1 after every epoch, validation not counted, and that of two views at the end."""
    torch.manual_seed(0)
    random.seed(0)
    clock, points = Clock(), []
    network._fc = torch.nn.Linear(1280, classes)
    body = [weight for name, weight in network.named_parameters() if not name.startswith("_fc")]
    rates = [{"params": body, "lr": 3e-4}, {"params": network._fc.parameters(), "lr": 3e-3}]
    adamw = torch.optim.AdamW(rates, weight_decay=0.05)
    loader = torch.utils.data.DataLoader(
        Photographs(*train), BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(adamw, [3e-4, 3e-3], total_steps=epochs * len(loader))
    for _ in range(epochs):
        network.train()
        for images, labels in loader:
            adamw.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels, label_smoothing=0.1).backward()
            adamw.step()
            cycle.step()
        points.append(clock.pause(lambda: score(network, *val, classes)))
        print(f"torch: {points[-1][0]:.0f} s, macro F1 {points[-1][1]:.4f}", file=sys.stderr, flush=True)
    return points, score(network, *val, classes, mirror=True)


def score(
    network: torch.nn.Module, jpegs: list[bytes], labels: list[int], classes: int, *, mirror: bool = False
) -> float:
    """Return the macro F1 of one view, or of an image and its mirror image together."""
    network.eval()
    said = []
    with torch.inference_mode():
        for first in range(0, len(jpegs), 64):
            images = [Image.open(io.BytesIO(jpeg)).resize((SIZE, SIZE)) for jpeg in jpegs[first : first + 64]]
            batch = torch.stack([pixels(image) for image in images])
            views = (batch, batch.flip(3)) if mirror else (batch,)
            said.append(sum(network(view).softmax(1) for view in views).argmax(1).numpy())
    return metrics.macro_f1(np.array(labels), np.concatenate(said), classes)


if __name__ == "__main__":  # a process of its own: TensorFlow's threads and forked workers do not go together
    with open(sys.argv[1], "rb") as file:
        given = pickle.load(file)
    print(json.dumps(curve(lite0(given.pop("weights")), **given)))
