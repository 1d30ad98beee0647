"""How much a training step suffers when other programs want the cores, with torch's long OpenMP spins and with short ones.

    python benchmarks/spin.py

For each GOMP_SPINCOUNT (unset: libgomp's own, hundreds of thousands; 1000: what the `harness` command sets) a fresh process
times MSAMamba's training step (batch 16, 101 nt), alone and beside one busy process per core. Prints medians and ratios.
"""

import os
import statistics
import subprocess
import sys

STEP = """
import time, torch
from harness.registry import adapter_class
from harness.classifier import Classifier
from harness.data import Window
from harness.data import Example
MSAMamba = adapter_class("msamamba")
model = Classifier(MSAMamba.from_checkpoint(), 2, MSAMamba.recipe)
batch = model.collate([Example(str(i), (Window("ACGTTGCAAC" * 10 + "A"),), 0) for i in range(16)])
seconds = []
for _ in range(20):
    begun = time.perf_counter()
    model(batch).square().sum().backward()
    seconds.append(time.perf_counter() - begun)
print(sorted(seconds[5:])[len(seconds[5:]) // 2])
"""
BUSY = "while True: pass"


def step_seconds(spins: str | None) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = spins
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(rounds: int = 3) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, spins in (("unset", None), ("1000", "1000")):
            times.setdefault(name, []).append(step_seconds(spins))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    idle = measure()
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        loaded = measure()
    finally:
        for process in busy:
            process.kill()
    print(f"{'GOMP_SPINCOUNT':<16}{'alone':>10}{'beside busy processes':>24}")
    for name in idle:
        print(f"{name:<16}{idle[name] * 1e3:>7.0f} ms{loaded[name] * 1e3:>21.0f} ms")
    print(f"unset / 1000: alone {idle['unset'] / idle['1000']:.2f}, beside busy processes {loaded['unset'] / loaded['1000']:.2f}")


if __name__ == "__main__":
    main()
