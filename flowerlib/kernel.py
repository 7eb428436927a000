"""What a notebook does first on Kaggle: make sure of the device, find the data, print what it works with."""

from flowerlib import __version__, accelerator, data, machine
from flowerlib.config import WITHOUT_ACCELERATOR, FlowersError


def start(*, devices: int | None = None, kind: str | None = None) -> None:
    """Stop in seconds where the machine is not the one that was asked for; print machine, device and data.

    Kaggle puts a job whose settings it does not understand on a plain CPU without a word, and a TPU's work takes
    days there. Some sessions start without their TPU for no reason.

    Args:
        devices: how many there must be, such as 8 for a TPU v5e-8; any number unless given.
        kind: `tpu`, `gpu` or `cpu`; any unless given.

    Raises:
        FlowersError: another number or kind of devices is here, or no data.
    """
    print(f"flowerlib {__version__}, {machine.describe()}")
    device = accelerator.setup()
    if devices not in (None, device.num_replicas) or kind not in (None, device.kind):
        wanted = f"{devices} devices" if devices else f"a {str(kind).upper()}"
        raise FlowersError(
            f"{WITHOUT_ACCELERATOR}: the notebook was sent to run on {wanted} but only {device} is here; run it again, "
            "or choose the accelerator in the notebook's settings (Session options), or build it for another with "
            "`flowerlib kaggle build --accelerator`"
        )
    print(device, data.find(), sep="\n")
