"""Compile and time DenseNet201's steps with torch, as its users would: `gpu_torch SECONDS '{"512": 16}'`.

`channels_last`, `torch.compile`, automatic mixed precision, and a gradient scaler for float16. It prints JSON.
"""

import json
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.harness import rate
from benchmarks.torch_loop import densenet201

CLASSES = 104
PRECISIONS = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def measure(seconds: float, batches: dict[int, int]) -> dict[str, float]:
    """Return what was found within the seconds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    end, found = time.monotonic() + seconds, {}
    for size, batch in batches.items():
        for policy, dtype in PRECISIONS.items():
            if time.monotonic() > end:
                return found
            case = f"{size} px, {policy}"
            train = training(device, dtype, batch, size)
            began = time.perf_counter()
            _wait(train())
            found[f"{case}: compiling training"] = time.perf_counter() - began
            found[f"{case}: training"] = rate(train, _wait, batch)
            if device == "cuda":
                found[f"{case}: memory of training"] = torch.cuda.max_memory_allocated() / 2**30
                torch.cuda.reset_peak_memory_stats()
    return found


def training(device: str, dtype: torch.dtype, batch: int, size: int) -> Callable[[], torch.Tensor]:
    """Return a function that takes a training step and returns its loss."""
    images = torch.randint(0, 256, (batch, 3, size, size), device=device).float().div(127.5).sub(1)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % CLASSES
    network = torch.compile(densenet201(CLASSES).to(device, memory_format=torch.channels_last))
    adamw = torch.optim.AdamW(network.parameters(), 1e-3)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def train() -> torch.Tensor:
        adamw.zero_grad()
        with torch.autocast(device, dtype):
            loss = torch.nn.functional.cross_entropy(network(images), labels, label_smoothing=0.1)
        scaler.scale(loss).backward()
        scaler.step(adamw)
        scaler.update()
        return loss

    return train


def _wait(loss: torch.Tensor) -> None:
    loss.item()


if __name__ == "__main__":
    seconds, batches = sys.argv[1:]
    found = measure(float(seconds), {int(size): batch for size, batch in json.loads(batches).items()})
    print(json.dumps(found), flush=True)
