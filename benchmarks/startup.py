"""Seconds that `harness --help` and the lists take as whole processes: medians of ten, beside an empty Python.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "harness --help": ["-m", "harness", "--help"],
    "harness list models": ["-m", "harness", "list", "models"],
    "harness list tasks": ["-m", "harness", "list", "tasks"],
}

for name, arguments in COMMANDS.items():
    seconds = []
    for _ in range(11):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        seconds.append(time.perf_counter() - begun)
    print(f"{name:<22}{statistics.median(seconds[1:]):.3f} s")
