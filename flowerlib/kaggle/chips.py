"""The chips of Kaggle's accelerators, as far as they are known."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chips:
    """What an accelerator brings.

    Attributes:
        kind: `tpu` or `gpu`.
        name: the maker's name for one of them.
        count: how many.
        memory: bytes of each that a program can use.
        capability: NVIDIA's compute capability of a GPU, by which the precision is chosen.
        topology: libtpu's name for all of them together; none of a GPU.
    """

    kind: str
    name: str
    count: int
    memory: float
    capability: tuple[int, ...] = ()
    topology: str | None = None

    @property
    def platform(self) -> str:
        """JAX's name for what programs are lowered to."""
        return {"tpu": "tpu", "gpu": "cuda"}[self.kind]


# Memory: cloud.google.com/tpu/docs, v5e 16 GB and v6e 32 GB; of a T4's 15 GB JAX takes 0.9.
CHIPS = {
    "TpuV5E8": Chips("tpu", "TPU v5 lite", 8, 15.75 * GIB, topology="v5e:2x4"),
    "TpuV6E8": Chips("tpu", "TPU v6 lite", 8, 31.25 * GIB, topology="v6e:2x4"),
    "NvidiaTeslaT4": Chips("gpu", "Tesla T4", 2, 0.9 * 15 * GIB, capability=(7, 5)),
}
