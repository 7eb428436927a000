"""The plain, well-written torch loop that fine-tuning is held against: one file, nothing of flowerlib in the loop.

EfficientNet-Lite0 from the same weights at 160 px, batches of 32, AdamW (3e-4 for the body, 3e-3 for the head, weight
decay 0.05) over one cycle of 8 epochs, label smoothing 0.1; cropping, mirroring, turning and colouring by Pillow in
two worker processes. As timm's recipe for fine-tuning, `channels_last` included, without what only pays on a GPU.
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
from flowerlib.predictions import metrics

SIZE, BATCH, EPOCHS = 160, 32, 8

# A torch built for GPUs imports Triton with its first optimizer. Beside TensorFlow 2.21 that ends the process, as both
# bring an LLVM (github.com/tensorflow/tensorflow/issues/124205). Nothing here needs it.
sys.modules["triton"] = None


def lite0(weights: Path, classes: int) -> torch.nn.Module:
    """EfficientNet-Lite0 in torch, with the weights that flowerlib uses and a new head; in training mode."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    network._fc = torch.nn.Linear(1280, classes)
    return network.train()


def freeze(network: torch.nn.Module, blocks: int) -> None:
    """Keep the stem and that many blocks of an EfficientNet-Lite0 as they are, batch normalization included."""
    if not blocks:
        return
    for part in (network._conv_stem, network._bn0, *network._blocks[:blocks]):
        part.requires_grad_(False).eval()


class _Dense(torch.nn.Module):
    """One layer of a DenseNet: it adds 32 maps to those it was given."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            *_ready(maps), torch.nn.Conv2d(maps, 128, 1, bias=False),
            *_ready(128), torch.nn.Conv2d(128, 32, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([maps, self.layers(maps)], 1)


def _ready(maps: int) -> tuple[torch.nn.Module, ...]:
    return torch.nn.BatchNorm2d(maps), torch.nn.ReLU(inplace=True)


def densenet201(classes: int) -> torch.nn.Module:
    """DenseNet201 with random weights, as in arXiv 1608.06993 and torchvision."""
    layers = [torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), *_ready(64), torch.nn.MaxPool2d(3, 2, 1)]
    maps = 64
    for count in (6, 12, 48, 32):
        if maps > 64:
            layers += [*_ready(maps), torch.nn.Conv2d(maps, maps // 2, 1, bias=False), torch.nn.AvgPool2d(2)]
            maps //= 2
        layers += [_Dense(maps + 32 * index) for index in range(count)]
        maps += 32 * count
    layers += [*_ready(maps), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(maps, classes)]
    return torch.nn.Sequential(*layers)


class Photographs(torch.utils.data.Dataset):
    """JPEGs in memory; each time one is asked for, it is augmented anew."""

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


def _last(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)


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
    network = network.to(memory_format=torch.channels_last)
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
            torch.nn.functional.cross_entropy(network(_last(images)), labels, label_smoothing=0.1).backward()
            adamw.step()
            cycle.step()
        points.append(clock.pause(lambda: score(network, *val, classes)))
        print(f"torch: {points[-1][0]:.0f} s, macro F1 {points[-1][1]:.4f}", file=sys.stderr, flush=True)
    return points, score(network, *val, classes, flip=True)


def score(
    network: torch.nn.Module, jpegs: list[bytes], labels: list[int], classes: int, *, flip: bool = False
) -> float:
    """Return the macro F1 of one view, or of an image and its mirror image together."""
    network.eval()
    predicted = []
    with torch.inference_mode():
        for first in range(0, len(jpegs), 64):
            images = [Image.open(io.BytesIO(jpeg)).resize((SIZE, SIZE)) for jpeg in jpegs[first : first + 64]]
            batch = _last(torch.stack([pixels(image) for image in images]))
            views = (batch, batch.flip(3)) if flip else (batch,)
            predicted.append(sum(network(view).softmax(1) for view in views).argmax(1).numpy())
    return metrics.macro_f1(np.array(labels), np.concatenate(predicted), classes)


if __name__ == "__main__":  # a process of its own: TensorFlow's threads and forked workers do not go together
    with open(sys.argv[1], "rb") as file:
        given = pickle.load(file)
    print(json.dumps(curve(lite0(given.pop("weights"), given["classes"]), **given)))
