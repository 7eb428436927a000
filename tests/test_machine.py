"""Which machine this is, held against what the system itself says."""

import os
import re
from importlib import metadata
from pathlib import Path

from flowerlib import machine


def test_versions_are_those_that_are_installed():
    found = machine.versions()
    assert found["numpy"] == metadata.version("numpy")
    assert found["keras"] == metadata.version("keras")
    assert machine.versions(["numpy", "no-such-package"]).keys() == {"python", "numpy"}


def test_cores_memory_and_disk_are_those_of_the_system(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = machine.facts()
    assert found["cores"] == len(os.sched_getaffinity(0))
    kilobytes = int(re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text("utf-8"))[1])
    assert found["memory_bytes"] == 1024 * kilobytes
    free = os.statvfs(tmp_path)
    assert abs(found["free_disk_bytes"] - free.f_bavail * free.f_frsize) < 1e9
    assert not {"git_commit", "build_date"} & found.keys()


def test_kaggles_image_is_told(tmp_path, monkeypatch):
    for name, content in (("git_commit", "0a1b2c\n"), ("build_date", "20260629-120000\n")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine, "IMAGE", {name: tmp_path / name for name in ("git_commit", "build_date", "other")})
    found = machine.facts()
    assert (found["git_commit"], found["build_date"]) == ("0a1b2c", "20260629-120000")
    first, second = machine.describe().splitlines()
    assert first.startswith("image 0a1b2c, image 20260629-120000, ")
    assert f", {found['cores']} cores, " in f", {first}"
    assert f"numpy {metadata.version('numpy')}" in second
