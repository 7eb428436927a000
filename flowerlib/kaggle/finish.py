"""What follows when all kernels have ended: the logs of failures, the submission, the recap."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from flowerlib.config import FlowersError, atomic_write
from flowerlib.kaggle.errors import SUBMISSION_HINT, RateLimited, Unreachable
from flowerlib.kaggle.jobs import Job, State
from flowerlib.kaggle.loop import print_line, retry
from flowerlib.kaggle.outputs import RECAP_FILES
from flowerlib.kaggle.steps import Series

ENSEMBLE = "20_ensemble"
NUM_LOG_LINES = 20  # shown of a failed kernel's log


def finish(series: Series, console: Console, *, submit: bool) -> Path | None:
    """Show the logs of failed kernels, copy the submission to the top, submit it, make the recap.

    Returns:
        The submission's path; None if there is none.

    Raises:
        RuntimeError: a kernel failed or is overdue, or one of these steps failed; the other steps were done.
    """
    failed = [job for job in series.jobs.values() if job.state == State.FAILED]
    for job in failed:
        _print_log(series.outputs.log_file(job.name), console)
    print_line(console, f"The outputs of the kernels: {series.outputs.folder / 'input'}")
    errors = [_describe_failures(failed, series.outputs.folder)] if failed else []
    errors += [f"{job.name} is overdue: {job.note}" for job in series.jobs.values() if job.state == State.OVERDUE]
    submission = None
    try:
        submission = _copy_submission(series, console)
        if submit and submission:
            _submit_once(series, console)
    except (FlowersError, RuntimeError) as error:
        errors.append(str(error))
    try:
        _make_recap(series)
    except (FlowersError, RuntimeError) as error:
        errors.append(f"the recap could not be made here: {error}")
    if errors:
        raise RuntimeError("; ".join(errors))
    return submission


def delete_overdue(series: Series, console: Console, confirm: Callable[[str], bool]) -> None:
    """Delete the kernels that are overdue, which is the only way to end their sessions, if `confirm` agrees to each."""
    for job in series.jobs.values():
        if job.state == State.OVERDUE and confirm(
            f"Delete {job.ref} from Kaggle, with all its versions (the newest is {job.version}) and their outputs?"
        ):
            retry(series, console, series.service.delete, job.ref)
            if retry(series, console, series.service.newest_version, job.ref):
                job.note += "; Kaggle did not delete it"
            else:
                series.outputs.forget(job.name)
                job.note += "; it was deleted, and the same command sends it again"


def _print_log(log: Path, console: Console) -> None:
    if log.exists():
        lines = log.read_text("utf-8").splitlines()[-NUM_LOG_LINES:]
        print_line(console, "\n".join([f"\nThe end of {log}:", *lines]))


def _describe_failures(failed: list[Job], out: Path) -> str:
    names = f"{failed[0].name}: {failed[0].note}" if len(failed) == 1 else ", ".join(job.name for job in failed)
    rest = f"The outputs of the others are in {out}; the same command runs only what failed"
    return f"failed: {names.removesuffix('.')}. {rest}"


def _copy_submission(series: Series, console: Console) -> Path | None:
    """Copy the ensemble's submission to `<out>/submission.csv`.

    Raises:
        RuntimeError: the ensemble's kernel is complete, but has no submission.
    """
    ensemble = series.jobs.get(ENSEMBLE)
    if ensemble is None or ensemble.state != State.COMPLETE:
        print_line(console, f"No submission from Kaggle: that needs a complete run of {ENSEMBLE}.")
        return None
    source = series.outputs.kernel_folder(ENSEMBLE) / "submission.csv"
    if not source.exists():
        raise RuntimeError(f"{ENSEMBLE} is complete but left no submission.csv; its log is in {source.parent}")
    submission = series.outputs.folder / "submission.csv"
    with atomic_write(submission) as temporary:
        shutil.copyfile(source, temporary)
    print_line(console, f"The submission: {submission}")
    return submission


def _submit_once(series: Series, console: Console) -> None:
    """Submit the ensemble's version unless it was submitted before: the submissions of a day are few."""
    ensemble, record = series.jobs[ENSEMBLE], series.outputs.folder / "submitted.json"
    version = {"kernel": ensemble.ref, "version": ensemble.version}
    previous = json.loads(record.read_text("utf-8")) if record.exists() else {}
    if previous.items() >= version.items():
        if previous["answer"] is None:
            raise RuntimeError(f"version {ensemble.version} may have been submitted before: {SUBMISSION_HINT}")
        print_line(console, f"Version {ensemble.version} was submitted before: {previous['answer']}")
        return
    _write_json(record, version | {"answer": None})  # if the response is lost, it is known that it was sent
    try:
        answer = series.service.submit(ensemble.ref, ensemble.version, f"flowerlib {ensemble.built.content}")
    except (FlowersError, RuntimeError) as error:
        if isinstance(error, Unreachable) and not isinstance(error, RateLimited):
            raise RuntimeError(f"the submission may or may not have arrived ({error}): {SUBMISSION_HINT}") from None
        record.unlink()
        raise
    _write_json(record, version | {"answer": answer})
    print_line(console, answer)


def _write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _make_recap(series: Series) -> None:
    """Run the ensemble's notebook here, over the runs of the kernels that are complete."""
    from flowerlib.series import execution  # which takes a second or two

    recap = series.outputs.folder / "recap"
    shutil.rmtree(recap, ignore_errors=True)
    for job in series.jobs.values():
        if job.state == State.COMPLETE:
            _copy_runs(series.outputs.kernel_folder(job.name), recap / "input" / job.name)
    if recap.exists():
        os.environ["FLOWERS_KAGGLE"] = str(recap.resolve())  # the notebook reads these runs only
        execution.run([ENSEMBLE], out=recap)


def _copy_runs(source: Path, target: Path) -> None:
    """Copy what the recap needs of each run in a kernel's output."""
    for predictions in source.glob("runs/*/predictions.npz"):
        folder = target / "runs" / predictions.parent.name
        folder.mkdir(parents=True)
        for name in RECAP_FILES:
            if predictions.with_name(name).exists():
                shutil.copyfile(predictions.with_name(name), folder / name)
