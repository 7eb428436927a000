"""`flowerlib kaggle ...`: the series on Kaggle."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from flowerlib.config import FlowersError

if TYPE_CHECKING:
    from flowerlib.kaggle.kernels import Kernel
    from flowerlib.kaggle.service import Service

app = typer.Typer(
    help="Send the series to Kaggle and bring the submission back.",
    epilog="Example: flowerlib kaggle run --submit",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Notebooks = Annotated[list[str] | None, typer.Argument(help="Such as 14_efficientnetv2xl; all unless given.")]
User = Annotated[
    str | None, typer.Option(help="Whose kernels: a name on Kaggle; unless given, the one who is logged in.")
]
Accelerator = Annotated[
    str | None,
    typer.Option(
        help="For the kernels that train, such as TpuV5E8 or NvidiaTeslaT4; unless given, that in "
        "kernel-metadata.json. The others need none."
    ),
]
Online = Annotated[
    bool | None,
    typer.Option(
        "--online/--offline",
        help="Whether kernels may use the internet; offline, they take their weights from the dataset that "
        "`flowerlib kaggle weights-dataset` makes. Unless given, as kernel-metadata.json says.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.01,
        max=12,
        help="The most hours that a kernel may run; Kaggle allows 9 with a TPU. What is stopped by it leaves nothing: "
        "stay above the notebook's HOURS.",
    ),
]
Out = Annotated[Path, typer.Option(file_okay=False, help="Where everything is left.")]
OUT = Path("outputs/kaggle")


@app.command(epilog="Example: flowerlib kaggle build --user alice && kaggle kernels push -p build/kernels/01_eda")
def build(
    notebooks: Notebooks = None,
    user: User = None,
    to: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Gets a folder for each; build/kernels in the repository unless given."),
    ] = None,
    accelerator: Accelerator = None,
    online: Online = None,
) -> None:
    """Make a folder for each notebook.

    It holds the notebook, with flowerlib inside, and its kernel-metadata.json.
    """
    from flowerlib.kaggle import build, kernels, service

    user = user or service.logged_in() or kernels.owner()
    built = build.build(notebooks or (), user=user, to=to, accelerator=accelerator, online=online)
    for folder, each in built.items():
        print(f"{os.path.relpath(folder)}: {each.ref}, content {each.content}")
    if to is None:
        print(f"{kernels.METADATA}: now of {user}; `kaggle kernels push -p .` sends what it describes")


@app.command(epilog="Example: flowerlib kaggle check")
def check(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="With a kernel-metadata.json; all that are built unless given.")
    ] = None,
) -> None:
    """Say what is wrong with kernels before they are sent."""
    from flowerlib.kaggle import build, check, kernels

    if not folders:
        folders = [kernels.ROOT, *sorted((kernels.ROOT / build.DEFAULT).glob("*/"))]
        if len(folders) == 1:
            raise FlowersError(f"nothing is built in {build.DEFAULT}; run `flowerlib kaggle build`")
    check.require(folders)
    print("Fit to be sent:", *(os.path.relpath(folder) for folder in folders), sep="\n")


@app.command(epilog="Example: flowerlib kaggle push 01_eda 02_augmentation")
def push(
    notebooks: Annotated[list[str], typer.Argument(help="Such as 14_efficientnetv2xl.", show_default=False)],
    user: User = None,
    accelerator: Accelerator = None,
    online: Online = None,
    timeout: Timeout = 9.0,
) -> None:
    """Build, check and send kernels, without waiting for them."""
    from flowerlib.kaggle import build, check
    from flowerlib.kaggle.service import QueueFull, Service, Unreachable

    service = Service()
    built = build.make_all(notebooks, user=user or service.user, accelerator=accelerator, online=online)
    check.require_built(built)
    service.require_datasets(each.metadata for each in built)
    for each in built:
        name = each.kernel.notebook
        try:
            version = service.push(each, int(3600 * timeout))
        except QueueFull as full:
            raise RuntimeError(f"{name} was not sent: {full} Wait, or let `flowerlib kaggle run {name}` wait") from None
        except Unreachable as error:
            raise RuntimeError(f"{error}; whether {name} arrived, `flowerlib kaggle status {name}` says") from None
        print(f"{name}: version {version}, https://www.kaggle.com/code/{each.ref}")


@app.command(epilog="Example: flowerlib kaggle run --submit")
def run(
    notebooks: Notebooks = None,
    user: User = None,
    out: Out = OUT,
    accelerator: Accelerator = None,
    online: Online = None,
    timeout: Timeout = 9.0,
    submit: Annotated[bool, typer.Option("--submit", help="Submit the ensemble's answers to the competition.")] = False,
    poll: Annotated[float, typer.Option(min=0.01, max=3600, help="Seconds between two looks.")] = 30.0,
) -> None:
    """Send the series in order and bring back what it leaves.

    The kernels that feed one belong to it. Stopped and called again, it goes on from what Kaggle has.
    """
    from flowerlib.kaggle import run

    try:
        run.run(
            notebooks or (),
            user=user,
            out=out,
            accelerator=accelerator,
            online=online,
            hours=timeout,
            submit=submit,
            poll=poll,
        )
    except KeyboardInterrupt:
        print("\nStopped watching. What was sent goes on at Kaggle; the same command takes it up again.")
        raise typer.Exit(130) from None


@app.command(epilog="Example: flowerlib kaggle status")
def status(notebooks: Notebooks = None, user: User = None) -> None:
    """Show how the newest run of each kernel stands."""

    def show(service: "Service", kernel: "Kernel", ref: str) -> None:
        remote = service.remote(ref)
        if remote is None:
            print(f"{kernel.notebook:<20} not on Kaggle")
            return
        state, message = service.status(ref, remote.version)
        print(f"{kernel.notebook:<20} version {remote.version}, content {remote.content}: {state} {message}".rstrip())

    _each(notebooks, user, show)


@app.command(epilog="Example: flowerlib kaggle output 14_efficientnetv2xl --out outputs/kaggle")
def output(notebooks: Notebooks = None, user: User = None, out: Out = OUT) -> None:
    """Download what the newest run of each kernel left."""
    from flowerlib.config import atomic_write
    from flowerlib.kaggle.service import ENDED_BADLY, ENDED_WELL

    def fetch(service: "Service", kernel: "Kernel", ref: str) -> None:
        if (remote := service.remote(ref)) is None:
            raise RuntimeError(f"{ref} is not on Kaggle; `flowerlib kaggle push {kernel.notebook}` sends it")
        if (state := service.status(ref, remote.version)[0]) not in (*ENDED_WELL, *ENDED_BADLY):
            raise RuntimeError(f"version {remote.version} of {ref} has not ended ({state}); what is here stays")
        with atomic_write(out / "input" / kernel.notebook) as temporary:
            service.output(ref, remote.version, temporary)
        print(out / "input" / kernel.notebook)

    _each(notebooks, user, fetch)


@app.command(epilog='Example: flowerlib kaggle submit --message "five networks, fitted weights"')
def submit(
    notebook: Annotated[str, typer.Argument(help="Whose submission.csv.")] = "20_ensemble",
    user: User = None,
    message: Annotated[str, typer.Option(help="What the submission is called.")] = "flowerlib",
) -> None:
    """Submit what the newest run of a kernel answered."""

    from flowerlib.kaggle.service import UNKNOWN, Unreachable

    def send(service: "Service", kernel: "Kernel", ref: str) -> None:
        remote = service.remote(ref)
        state = remote and service.status(ref, remote.version)[0]
        if state != "COMPLETE":
            raise RuntimeError(f"{ref} has no complete run to submit: {state or 'not on Kaggle'}")
        with TemporaryDirectory() as folder:
            service.output(ref, remote.version, Path(folder), r"^submission\.csv$")
            if not Path(folder, "submission.csv").exists():
                raise RuntimeError(f"version {remote.version} of {ref} left no submission.csv")
        try:
            print(service.submit(ref, remote.version, message))
        except Unreachable as error:
            raise RuntimeError(f"it is not known whether the submission arrived ({error}): {UNKNOWN}") from None

    _each([notebook], user, send)


@app.command("weights-dataset", epilog="Example: flowerlib kaggle weights-dataset && flowerlib kaggle run --offline")
def weights_dataset(
    to: Annotated[Path, typer.Option(file_okay=False, help="The folder to fill and to send.")] = Path("build/weights"),
    user: User = None,
    poll: Annotated[float, typer.Option(min=0.01, max=3600, help="Seconds between two looks.")] = 10.0,
) -> None:
    """Send the pretrained weights as a private dataset.

    Kernels with internet off take them from there.
    """
    from flowerlib.kaggle import dataset

    print(dataset.send(to, user=user, poll=poll), "can be attached now.")


def _each(notebooks: list[str] | None, user: str | None, action: Callable) -> None:
    """Do something with each kernel named."""
    from flowerlib.kaggle import kernels
    from flowerlib.kaggle.service import Service

    service = Service()
    for kernel in kernels.chosen(notebooks or ()):
        action(service, kernel, f"{user or service.user}/{kernel.slug}")
