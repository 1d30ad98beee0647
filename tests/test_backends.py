"""Which implementation of a kernel is taken, and what is said of it: on the screen, by `harness doctor`, and in records."""

from __future__ import annotations

import pytest
import torch

from harness.engine import hardware
from harness.kernels import _cuda, backends, compilation
from harness.kernels.causal_conv1d import causal_conv1d
from harness.kernels.selective_scan import selective_scan
from harness.study.plan import plan
from harness.study.run import execute

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    """A GPU that lacks what is set here: reasons by backend."""
    reasons: dict[str, str] = {}
    monkeypatch.setattr(_cuda, "missing", lambda device: reasons.get("cuda", ""))
    monkeypatch.setattr(backends, "_installed", lambda package: package not in reasons)
    return reasons


def scanned() -> torch.Tensor:
    x = torch.ones(1, 2, 3)
    out = selective_scan(causal_conv1d(x, torch.ones(2, 2)), x, -torch.ones(2, 4), torch.ones(1, 4, 3), torch.ones(1, 4, 3))
    assert isinstance(out, torch.Tensor)
    return out


class TestChoice:
    def test_the_best_that_is_there(self, card):
        assert backends.choose("selective_scan", GPU) == "mamba_ssm"
        assert backends.choose("causal_conv1d", GPU) == "causal_conv1d"
        card["mamba_ssm"] = "absent"
        assert backends.choose("selective_scan", GPU) == "cuda"
        assert backends.choose("causal_conv1d", GPU) == "causal_conv1d"
        assert backends.choose("selective_scan", CPU) == "cpu"
        assert backends.choose("selective_scan", torch.device("meta")) == "definition"

    def test_what_cannot_take_these_tensors_is_passed_over(self, card):
        assert backends.choose("selective_scan", GPU, (("mamba_ssm", "it has no float64"),)) == "cuda"
        assert backends.choose("selective_scan", GPU, (("mamba_ssm", ""),)) == "mamba_ssm"

    @pytest.mark.parametrize(
        ("states", "dtype", "unfit"), [(256, "float32", ""), (257, "float32", "256 states"), (4, "float64", "float64")]
    )
    def test_scans_that_upstreams_kernel_does_not_take(self, states, dtype, unfit, monkeypatch):
        asked = {}
        monkeypatch.setattr(backends, "choose", lambda operation, device, refused: asked.update(refused) or "definition")
        x, B = torch.ones(1, 2, 3, dtype=getattr(torch, dtype)), torch.ones(1, states, 3)
        selective_scan(x, x, -torch.ones(2, states), B, B)
        assert unfit in asked["mamba_ssm"]
        assert bool(unfit) == bool(asked["mamba_ssm"])

    def test_plain_torch_on_a_gpu_is_said_once_with_the_reason(self, card, monkeypatch):
        said = []
        monkeypatch.setattr(compilation, "on_compile", said.append)
        monkeypatch.setattr(compilation, "_announced", set())
        card |= {"mamba_ssm": "absent", "cuda": "cuda-bindings is not installed: pip install 'gfm-harness[gpu]'"}
        assert [backends.choose("selective_scan", GPU) for _ in range(2)] == ["definition"] * 2
        assert said == [
            "selective_scan runs in plain torch, many times slower than fused: "
            "cuda-bindings is not installed: pip install 'gfm-harness[gpu]'"
        ]

    def test_what_was_used_is_known_until_it_is_forgotten(self):
        backends.forget()
        scanned()
        assert backends.used() == {"causal_conv1d": "cpu", "selective_scan": "cpu"}
        with backends.using("selective_scan=definition"):
            scanned()
        assert backends.used() == {"causal_conv1d": "cpu", "selective_scan": "definition"}
        backends.forget()
        assert backends.used() == {}


class TestForced:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", {}),
            ("definition", {"selective_scan": "definition", "causal_conv1d": "definition"}),
            ("mamba_ssm", {"selective_scan": "mamba_ssm"}),
            (" selective_scan=cuda , causal_conv1d=cpu", {"selective_scan": "cuda", "causal_conv1d": "cpu"}),
            ("definition,selective_scan=cpu", {"selective_scan": "cpu", "causal_conv1d": "definition"}),
        ],
    )
    def test_how_it_is_written(self, text, expected):
        assert backends.forced(text) == expected

    @pytest.mark.parametrize(
        "text", ["triton", "selective_scan=causal_conv1d", "scan=cpu", "selective_scan=", "=", "cpu=selective_scan"]
    )
    def test_what_is_unknown_is_refused(self, text):
        with pytest.raises(ValueError, match=r"HARNESS_KERNELS=.* is not known; backends are selective_scan: mamba_ssm, cuda"):
            backends.forced(text)

    def test_variable_and_block(self, monkeypatch):
        monkeypatch.setenv("HARNESS_KERNELS", "definition")
        assert backends.choose("selective_scan", CPU) == "definition"
        with backends.using("cpu"):
            assert backends.choose("selective_scan", CPU) == "cpu"
        assert backends.choose("selective_scan", CPU) == "definition"

    def test_results_are_the_same(self):
        found = []
        for name in ("cpu", "definition"):
            with backends.using(name):
                found.append(scanned())
        torch.testing.assert_close(*found)

    def test_what_cannot_serve_is_refused_by_name(self, monkeypatch, card):
        monkeypatch.setenv("HARNESS_KERNELS", "cuda")
        with pytest.raises(
            ValueError, match="asks for cuda as causal_conv1d: it computes on NVIDIA GPUs, and the tensors are on cpu"
        ):
            scanned()
        with (
            pytest.raises(ValueError, match="asks for mamba_ssm as selective_scan: it has no float64"),
            backends.using("mamba_ssm"),
        ):
            backends.choose("selective_scan", GPU, (("mamba_ssm", "it has no float64"),))
        card["mamba_ssm"] = "absent"
        with (
            pytest.raises(ValueError, match=r"mamba_ssm is not installed: pip install 'gfm-harness\[cuda\]'"),
            backends.using("mamba_ssm"),
        ):
            backends.choose("selective_scan", GPU)

    @pytest.mark.parametrize("value", ["cuda", "fast"])
    @pytest.mark.parametrize("command", [["run"], ["sweep"], ["search", "--trials", "2"]], ids=lambda command: command[0])
    @pytest.mark.usefixtures("own_cache")
    def test_nothing_begins(self, monkeypatch, tmp_path, harness, command, value):
        assert hardware.resolve("cpu", "auto")[0] == "cpu"  # which is remembered
        monkeypatch.setenv("HARNESS_KERNELS", value)
        done = harness(*command, "--model", "gc", "--task", "QKI", "--device", "cpu", "--results", str(tmp_path / "results"))
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith("error: HARNESS_KERNELS")
        assert not (tmp_path / "results").exists()


class TestWords:
    def test_doctor_says_it_in_one_line(self, card, monkeypatch, harness):
        assert backends.described(CPU) == "selective_scan: cpu (compiled by Numba), causal_conv1d: cpu (compiled by Numba)"
        card |= {"mamba_ssm": "absent", "causal_conv1d": "absent"}
        assert backends.described(GPU) == (
            "selective_scan: cuda (compiled by NVRTC), causal_conv1d: cuda (compiled by NVRTC); "
            "mamba_ssm: mamba_ssm is not installed: pip install 'gfm-harness[cuda]' (needs nvcc); "
            "causal_conv1d: causal_conv1d is not installed: pip install 'gfm-harness[cuda]' (needs nvcc)"
        )
        card["cuda"] = "NVRTC 13.0 does not compile for compute capability 6.0"
        assert "definition (plain torch, slow)" in backends.described(GPU)
        assert "cuda: NVRTC 13.0 does not compile for compute capability 6.0" in backends.described(GPU)
        monkeypatch.setenv("HARNESS_KERNELS", "definition")
        assert backends.described(CPU).endswith("; HARNESS_KERNELS asks for it")
        done = harness("doctor")
        assert done.returncode == 0
        assert "plain torch" in done.stdout

    @pytest.mark.usefixtures("own_cache")
    def test_a_record_and_the_screen_say_it(self, tmp_path, monkeypatch):
        said = []
        for label, letters in enumerate(("ACGTACGGTA", "TTGACCATGC")):
            (tmp_path / f"{label}.fa").write_text(
                "".join(f">{label}.{n}\n{letters[n:] + letters[:n]}{'ACGT'[n % 4]}\n" for n in range(10))
            )
        (run,) = plan("msamamba", [str(tmp_path / f"{label}.fa") for label in (0, 1)], init="random:tiny", epochs=1, device="cpu")
        monkeypatch.setenv("HARNESS_KERNELS", "selective_scan=definition")
        monkeypatch.setattr("harness.progress.Reporter.say", lambda self, text: said.append(text))
        record = execute(run, tmp_path)
        assert record.environment["kernels"] == {"causal_conv1d": "cpu", "selective_scan": "definition"}
        assert any("HARNESS_KERNELS: selective_scan by definition" in text for text in said)
