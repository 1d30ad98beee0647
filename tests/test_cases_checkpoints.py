"""The public bug reports about checkpoints (C14, C26 to C28 of ../shared/cases): each loads as it should, or says why not."""

from __future__ import annotations

import runpy

import pytest
import torch
from conftest import SHARED

from harness.engine.build import request
from harness.errors import UserError

MAKE = SHARED / "cases/_checkpoints/make.py"

pytestmark = pytest.mark.skipif(not MAKE.is_file(), reason=f"{MAKE} is not on this machine")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("checkpoints"))
        patch.setenv("HARNESS_OFFLINE", "1")
        patch.setenv("HARNESS_WEIGHTS", str(folder / "weights"))
        runpy.run_path(str(MAKE))
        yield folder


def build(folder):
    return request("dnabert1", checkpoint=str(folder)).build()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lightning/last.ckpt", "'model.' was taken off"),
        ("lightning", "'model.' was taken off"),
        ("msd", None),
        ("dp_module", "'module.' was taken off"),
        ("compiled", "'_orig_mod.' of torch's wrappers"),
        ("no_bert_prefix", "'bert.', which the file's names lack"),
        ("sharded", None),
        ("trainer_dir", "checkpoint-500 is read"),
        ("fp16", None),
        ("position_ids", "not used: 1 of the file's tensors"),
        ("seqcls", None),
    ],
)
def test_what_people_have_is_the_same_model(made, name, said):
    expected, found = build(made / "ok").state_dict(), build(made / name)
    tolerance = 1e-3 if name == "fp16" else 0
    for key, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=tolerance, atol=tolerance)
    assert said is None or any(said in warning for warning in found.audit.warnings)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lora_beside", r"query\.lora_A.* belong to another architecture; merge the LoRA parts first"),
        ("relative", "position_embedding_type 'relative_key'"),
        ("fewer_layers", "num_hidden_layers 1, its tensors 2"),
        ("peft_whole", r"LoRA parts are in the file: .* or put its adapter_config\.json beside it"),
        ("peft_adapter", "a PEFT adapter, whose base model zhihan1996/DNA_bert_6 is not here"),
        ("nan", "holds values that are not finite"),
        ("inf_fp16", "holds values that are not finite"),
        ("both", r"model\.safetensors and pytorch_model\.bin hold different models"),
        ("gelu_new", "hidden_act 'gelu_new'"),
        ("no_config", r"its config\.json must lie beside it"),
    ],
)
def test_what_would_be_another_model_is_refused(made, name, reason):
    with pytest.raises(UserError, match=reason) as caught:
        build(made / name)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
