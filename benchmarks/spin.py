"""How much two runs on one machine slow each other down, with the long spins of torch's OpenMP threads and with short ones.

    python benchmarks/spin.py

For each GOMP_SPINCOUNT (unset: libgomp's default, hundreds of thousands; 1000: what `import harness` sets), fresh processes time
MSAMamba's training step (batch 16, 101 nt), first one alone, then two at once. Prints medians over rounds, and their ratios.
"""

import os
import statistics
import subprocess
import sys

STEP = """
import time, torch
from harness.registry import adapter_class
from harness.engine.classifier import Classifier
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


def step_seconds(spins: str | None, at_once: int) -> float:
    """Median step of the slowest of ``at_once`` processes."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = spins
    command = [sys.executable, "-c", STEP]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(at_once)]
    return max(float(process.communicate()[0]) for process in running)


def main(rounds: int = 3) -> None:
    print(f"{'GOMP_SPINCOUNT':<16}{'one alone':>12}{'two at once':>14}")
    medians = {}
    for name, spins in (("unset", None), ("1000", "1000")):
        medians[name] = [statistics.median(step_seconds(spins, at_once) for _ in range(rounds)) for at_once in (1, 2)]
        print(f"{name:<16}{medians[name][0] * 1e3:>9.0f} ms{medians[name][1] * 1e3:>11.0f} ms", flush=True)
    ratios = [slow / fast for slow, fast in zip(medians["unset"], medians["1000"], strict=True)]
    print(f"{'unset / 1000':<16}{ratios[0]:>12.2f}{ratios[1]:>14.2f}")


if __name__ == "__main__":
    main()
