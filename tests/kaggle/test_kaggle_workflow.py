"""The workflow that runs the series on Kaggle: its commands exist, its scripts do what its conditions rely on."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import test_docs
import yaml

FILE = Path(__file__).parents[2] / ".github/workflows/kaggle.yml"
WORKFLOW = yaml.safe_load(FILE.read_text("utf-8"))
STEPS = WORKFLOW["jobs"]["run"]["steps"]
SCRIPTS = {step["name"]: step["run"] for step in STEPS if "run" in step and "name" in step}
SEND, GO_ON = SCRIPTS["Send the kernels, wait, fetch the outputs"], SCRIPTS["Go on in another job"]


def commands():
    """The words of each flowerlib command in a script of the workflow, after `flowerlib`."""
    lines = [line for step in STEPS for line in step.get("run", "").splitlines()]
    found = [re.search(r"\.venv/bin/flowerlib (.*?)( \|\||$)", line) for line in lines]
    return [match[1].replace("$ARGUMENTS", "10_densenet201").split() for match in found if match]


def test_the_workflow_shows_the_quota_and_then_runs():
    kaggle = [words[1] for words in commands()]
    assert kaggle == ["run", "quota", "run"]
    assert "--dry-run" in commands()[0]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_is_one_that_flowerlib_takes(words):
    test_docs.check_options(words)
    command, rest, context = test_docs.leaf(words)
    command.make_context(command.name, list(rest), parent=context.parent)


def test_it_starts_by_hand_or_on_a_tag_alone_and_one_at_a_time():
    starts = WORKFLOW[True]  # YAML reads `on` so
    assert set(starts) == {"workflow_dispatch", "push"}
    assert set(starts["push"]) == {"tags"}
    assert "cancel-in-progress" not in WORKFLOW["concurrency"]


def test_secrets_are_named_and_reach_only_the_steps_that_ask_kaggle():
    assert set(re.findall(r"secrets\.(\w+)", FILE.read_text("utf-8"))) == {"KAGGLE_API_TOKEN"}
    for step in STEPS:
        assert ("KAGGLE_API_TOKEN" in step.get("env", {})) == ("flowerlib kaggle" in step.get("run", ""))


def test_inputs_are_never_part_of_a_script():
    assert not [script for script in SCRIPTS.values() if "${{" in script]


def run(script, folder, *, status=0, **variables):
    """Run a script as GitHub does, with a `flowerlib` and a `gh` that note their words; return it, and the words."""
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("flowerlib", "gh"):
        program = folder / ".venv/bin" / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > words.txt\nexit {status}\n')
        program.chmod(0o755)
    paths = {"PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "GITHUB_OUTPUT": str(folder / "output.txt")}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=paths | variables, capture_output=True)
    words = folder / "words.txt"
    return done.returncode, words.read_text().splitlines() if words.exists() else []


@pytest.mark.parametrize(("status", "code", "output"), [(0, 0, ""), (1, 1, ""), (124, 0, "unfinished=true\n")])
def test_a_job_whose_time_is_over_is_no_failure_but_unfinished(tmp_path, status, code, output):
    (tmp_path / "output.txt").touch()
    done = run(SEND, tmp_path, status=status, ARGUMENTS="03 10 --submit")
    assert done == (code, ["kaggle", "run", "03", "10", "--submit"])
    assert (tmp_path / "output.txt").read_text() == output


def test_an_unfinished_one_starts_the_next_with_the_same_arguments(tmp_path):
    variables = {"ARGUMENTS": "03 --submit", "PART": "2", "GITHUB_REF_NAME": "v1"}
    given = ["-f", "arguments=03 --submit", "-f", "part=3"]
    assert run(GO_ON, tmp_path, **variables) == (0, ["workflow", "run", "kaggle.yml", "--ref", "v1", *given])
    assert set(WORKFLOW[True]["workflow_dispatch"]["inputs"]) == {"arguments", "part"}


def test_the_chain_of_jobs_has_an_end(tmp_path):
    assert run(GO_ON, tmp_path, ARGUMENTS="", PART="8", GITHUB_REF_NAME="v1") == (1, [])
