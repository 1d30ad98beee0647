"""How a run is computed: compiled, or with kernels that repeat themselves; part of what it is, and left as found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT, motif_examples, random_windows
from test_fit import build
from test_plan import TINY, write_table

import harness.engine  # noqa: F401
from harness import registry
from harness.engine import fit as fit_module
from harness.engine import hardware
from harness.engine.fit import fit
from harness.engine.predict import predict
from harness.errors import RunFailed, UserError
from harness.evidence import records
from harness.evidence.verify import verify
from harness.recipe import Recipe
from harness.study import trial as trial_module
from harness.study.plan import plan
from harness.study.run import execute

ACCELERATOR = Accelerator(cpu=True)


def state() -> tuple:
    cudnn, utils = torch.backends.cudnn, torch.utils.deterministic
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *strict, cudnn.deterministic, cudnn.benchmark, utils.fill_uninitialized_memory


class TestCompile:
    @pytest.mark.parametrize("name", ["cnn", "dnabert2", pytest.param("msamamba", marks=pytest.mark.slow)])
    def test_training_is_compiled_and_comes_to_the_same(self, name, monkeypatch):
        monkeypatch.setattr(fit_module, "COMPILER", "aot_eager")
        examples, compiled = motif_examples(24, (20, 40)), []
        whole = torch.compile
        monkeypatch.setattr(torch, "compile", lambda model, **how: (compiled.append(how), whole(model, **how))[1])

        def outcome(**how):
            recipe = registry.adapter_class(name).recipe.override(epochs=1, batch_size=8, dropout=0.0, precision="float32", **how)
            classifier = build(name, recipe)
            if name == "dnabert2":  # without padding, it draws its dropout otherwise
                object.__setattr__(classifier.adapter.shape, "dropout", 0.0)
            fitted = fit(classifier, examples, examples[:8], recipe, ACCELERATOR)
            return fitted.history[0]["train_loss"], predict(classifier, examples, ACCELERATOR), list(classifier.state_dict())

        (loss, outputs, names), (expected, theirs, plain) = outcome(compile=True), outcome()
        assert compiled == [{"backend": "aot_eager"}]
        assert loss == pytest.approx(expected, rel=1e-5)
        assert abs(outputs - theirs).max() < 1e-3
        assert names == plain

    @pytest.mark.parametrize(
        "name", ["dnabert1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dnabert2", "gpn_msa"))]
    )
    def test_models_of_plain_torch_are_compiled_whole(self, name):
        """With what is known of a batch before it is computed; ``fullgraph`` raises an error where anything is left out."""
        classifier = build(name, Recipe()).eval()
        torch.compiler.reset()
        compiled = torch.compile(classifier, backend="aot_eager", fullgraph=True)
        for count, lengths in ((4, (20, 40)), (5, (25, 50)), (6, (30, 60))):
            windows = random_windows(count, 30 if name == "gpn_msa" else lengths)
            batch = classifier.adapter.for_accelerator(classifier.adapter.collate(windows))
            torch.testing.assert_close(compiled(batch), classifier(batch), rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    def test_kernels_that_have_yet_to_be_compiled_are_left_alone(self, tmp_path):
        code = (
            "import torch; from harness.kernels.causal_conv1d import causal_conv1d\n"
            "x, weight = torch.ones(1, 2, 5, requires_grad=True), torch.ones(2, 3)\n"
            "torch.compile(lambda x: causal_conv1d(x, weight).sum(), backend='aot_eager')(x).backward(); print(x.grad[0, 0].tolist())"
        )
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == "[3.0, 3.0, 3.0, 2.0, 1.0]", done.stderr[-2000:]

    def test_every_run_starts_with_an_empty_compiler(self, monkeypatch):
        """Else the tenth model of a sweep would not be compiled at all: torch gives up on a function after eight variants."""
        monkeypatch.setattr(fit_module, "COMPILER", "eager")
        resets = []
        monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
        recipe = Recipe(epochs=1, compile=True)
        fit(build("cnn", recipe), motif_examples(8), motif_examples(8), recipe, ACCELERATOR)
        fit(build("cnn", recipe), motif_examples(8), motif_examples(8), recipe.override(compile=False), ACCELERATOR)
        assert resets == [1]

    def test_a_compiler_that_fails_is_a_failed_run_that_says_what_to_do(self, monkeypatch):
        def broken(graph, inputs):
            raise OSError("no C++ compiler here")

        monkeypatch.setattr(fit_module, "COMPILER", broken)
        recipe = Recipe(epochs=1, compile=True)
        with pytest.raises(RunFailed, match=r"torch.compile failed \(.*no C\+\+ compiler here.*\): leave --compile out"):
            fit(build("cnn", recipe), motif_examples(8), motif_examples(8), recipe, ACCELERATOR)


class TestDeterministic:
    def test_everything_is_left_as_found(self):
        before = state()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            found = state()
            with hardware.deterministic(True):
                assert state() == (True, False, True, False, False)
            assert state() == found
            with pytest.raises(KeyError), hardware.deterministic(True):
                raise KeyError
            assert state() == found
            with hardware.deterministic(False):
                assert state() == found
        finally:
            torch.use_deterministic_algorithms(False)
        assert state() == before

    def test_cublas_is_told_before_it_begins(self):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")

    @pytest.mark.parametrize("tune", ["full", "probe"])
    def test_it_lasts_for_training_and_scoring_of_a_run_that_asks_for_it(self, tune, tmp_path, monkeypatch):
        seen = []

        def noted(name):
            whole = getattr(trial_module, name)

            def wrapper(*given, **more):
                seen.append((name, torch.are_deterministic_algorithms_enabled(), bool(more.get("cache"))))
                return whole(*given, **more)

            monkeypatch.setattr(trial_module, name, wrapper)

        for name in ("fit", "probe", "predict"):
            noted(name)
        table = str(write_table(tmp_path / "t.csv"))
        for on in (True, False):
            settings = {"epochs": 1} if tune == "full" else {}
            (run,) = plan("cnn", table, tune=tune, deterministic=on, **settings, init="random:tiny", device="cpu")
            assert execute(run, tmp_path / "results").finished
        first = "probe" if tune == "probe" else "fit"
        assert seen == [
            (first, True, False),
            ("predict", True, False),
            (first, False, tune == "probe"),
            ("predict", False, False),
        ]
        assert not torch.are_deterministic_algorithms_enabled()

    def test_an_operation_without_such_a_kernel_fails_the_run_and_is_named(self, monkeypatch):
        recipe = Recipe(epochs=1, deterministic=True)
        classifier = build("cnn", recipe)

        def stumble(batch):
            raise RuntimeError(
                "put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'. You"
            )

        monkeypatch.setattr(classifier, "forward", stumble)
        with pytest.raises(RunFailed, match=r"^put_ does not have a deterministic implementation: leave --deterministic out$"):
            fit(classifier, motif_examples(8), motif_examples(8), recipe, ACCELERATOR)


class TestIdentity:
    @pytest.mark.parametrize("setting", ["compile", "deterministic"])
    def test_it_is_part_of_a_run(self, setting, tmp_path, monkeypatch):
        monkeypatch.setattr(fit_module, "COMPILER", "eager")
        table = str(write_table(tmp_path / "t.csv"))
        (plain,) = plan("cnn", table, **TINY, epochs=1)
        (asked,) = plan("cnn", table, **TINY, epochs=1, **{setting: True})
        (declined,) = plan("cnn", table, **TINY, epochs=1, **{setting: False})
        assert asked.id != plain.id == declined.id
        done = execute(asked, tmp_path / "results")
        assert done.recipe[setting] is True
        assert done.model["recipe"][setting] is False
        (read,) = records.read_all(tmp_path / "results")
        assert read.recipe[setting] is True
        assert not verify(tmp_path / "results").problems

    def test_on_the_command_line_and_on_the_screen(self, harness, tmp_path, monkeypatch):
        monkeypatch.setattr(fit_module, "COMPILER", "eager")
        table = str(write_table(tmp_path / "t.csv"))
        given = ("--model", "cnn", "--task", table, "--init", "random:tiny", "--epochs", "1", "--precision", "float32")
        done = harness("run", *given, "--compile", "--deterministic")
        assert done.returncode == 0, done.stderr
        assert "float32, compile, deterministic on " in done.stderr
        again = harness("run", *given)
        assert "float32 on " in again.stderr
        assert len(records.read_all(tmp_path / "results")) == 2
        assert "compile True, deterministic True" in " ".join(harness("table").stdout.split())

    def test_a_probe_is_not_compiled(self, tmp_path):
        table = str(write_table(tmp_path / "t.csv"))
        with pytest.raises(UserError, match="compile: not used by cnn, which is tuned by 'probe'"):
            plan("cnn", table, tune="probe", compile=True, init="random:tiny")

    @pytest.mark.parametrize("value", [1, "yes", 0.0])
    def test_what_is_neither_true_nor_false_is_refused(self, value):
        with pytest.raises(UserError, match=f"compile {value!r}: must be true or false"):
            Recipe(compile=value)


def test_peak_memory_of_a_gpu_begins_anew_with_each_run(monkeypatch):
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    hardware.reset_peak_memory(torch.device("cpu"))
    hardware.reset_peak_memory(torch.device("cuda", 1))
    assert reset == [torch.device("cuda", 1)]
