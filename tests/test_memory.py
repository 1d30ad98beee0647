"""How much memory there is, and what is refused for want of it before it begins."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from harness import load_task
from harness.errors import UserError
from harness.files import memory


def test_the_memory_of_this_machine_is_known_and_plausible():
    free = memory.available_memory()
    if sys.platform != "linux":
        pytest.skip("only Linux says")
    assert free is not None
    assert 1 << 24 < free < 1 << 46


def test_what_needs_more_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000_000)
    memory.check_memory(1_999_999_999, "context 9", "")
    with pytest.raises(UserError, match=r"context 20000: needs about 160\.0 GB of memory, and 2\.0 GB are free; try a smaller"):
        memory.check_memory(160_000_000_000, "context 20000", "try a smaller --context")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_memory(1 << 60, "what nobody can judge", "")


def test_limits_of_the_process_count():
    code = (
        "import resource; from harness.files import memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 31, resource.RLIM_INFINITY)); print(memory.available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 1 << 31
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 1 << 31


def test_control_groups_and_damaged_lists_count_as_what_they_say(monkeypatch, tmp_path):
    (tmp_path / "list").write_text("MemFree: 1 kB\nMemAvailable:  12 kB\nSwap: x\n")
    assert memory._meminfo(str(tmp_path / "list"), "MemAvailable:") == 12 * 1024
    assert memory._meminfo(str(tmp_path / "list"), "Swap:") is None
    assert memory._meminfo(str(tmp_path / "none"), "MemAvailable:") is None
    monkeypatch.setattr(memory, "_control_group", lambda: [5, -3])
    assert memory.available_memory() == 0


def test_a_context_that_no_memory_holds_is_refused_at_once():
    with pytest.raises(UserError, match=r"context 10000000: needs about 9000\.0 GB of memory, .* use a shorter --context"):
        load_task("clinvar", context=10_000_000).sample.load("chromosome")
