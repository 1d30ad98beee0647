"""What a config.json asks of the classes of ``transformers``, and what these would leave out without a word."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from harness.errors import BadData, CheckpointMismatch, DataMissing
from harness.files.configuration import HEADS, LAYERS, ROWS, WIDTH, check_fields, read_object

Kind = Literal["masked", "causal", "encoder"]
# What every model of sequences has; beyond these bounds even a model without weights takes hours to build.
SHAPE = {"vocab_size": ROWS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
# Authors' classes that replace the ones taken here. One for classification alone (DNABERT-1's) does not.
OURS = ("AutoModel", "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForPreTraining")
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")

# Settings that a class may not know without computing anything else than was trained. The first block is of text generation and
# bookkeeping, the second of training and losses, the third of heads and tokenizers.
HARMLESS = frozenset(
    """
    begin_suppress_tokens bad_words_ids diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores output_past remove_invalid_values
    repetition_penalty return_dict_in_generate return_dict suppress_tokens temperature top_k top_p typical_p use_cache
    cache_implementation _name_or_path name_or_path _commit_hash architectures auto_map model_type transformers_version
    torch_dtype dtype torchscript use_bfloat16 tf_legacy_loss finetuning_task task_specific_params problem_type unsloth_version
    _attn_implementation _attn_implementation_autoset attn_implementation _attn_implementation_internal _flash_attn_2_enabled
    use_flash_attn use_flash_attention deterministic_flash_attn reference_compile repad_logits_with_grad

    attention_dropout attention_probs_dropout_prob hidden_dropout_prob hidden_dropout dropout embd_pdrop resid_pdrop attn_pdrop
    initializer_range initializer_factor initializer_cutoff_factor gradient_checkpointing output_router_logits
    router_aux_loss_coef router_jitter_noise sparse_prediction sparse_pred_ignore_index pretraining_tp rescale_prenorm_residual
    mlm_probability

    num_labels id2label label2id classifier_dropout classifier_activation classifier_bias classifier_pooling summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj pooler_dropout pooler_hidden_act
    pooler_hidden_size pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    directionality tokenizer_class prefix bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id pad_token_id
    unk_token_id decoder_start_token_id tie_encoder_decoder cross_attention_hidden_size chunk_size_feed_forward
    is_folding_model esmfold_config vocab_list num_rnn_layer rnn rnn_dropout rnn_hidden split
    rope_theta rope_scaling global_rope_theta local_rope_theta layer_norm_eps
    n_ctx d_model d_inner n_layer ssm_cfg fused_add_norm pad_vocab_size_multiple
    """.split()  # noqa: SIM905
)
# Settings that are harmless with these values alone. All others that a class does not know are so if null, false or empty.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "add_bias_fnn": (True,),
    "hidden_act": ("gelu",),  # of ESM, which has no other
    "rms_norm": (True,),  # of Mamba
}


def read_json(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        DataMissing: there is none.
        BadData: it is not a JSON object, or does not say which architecture it is of.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise DataMissing(f"{folder}: no config.json; give a folder in the hub's layout (config.json, tokenizer, weights)")
    stated = read_object(path)
    if not isinstance(stated.get("model_type"), str):
        raise BadData(f"{path}: names no model_type; only models in the layout of transformers are read")
    for name, kind in (("auto_map", dict), ("architectures", list)):
        if not isinstance(stated.get(name) or kind(), kind):
            raise BadData(f"{path}: {name} is of the wrong type ({type(stated[name]).__name__}); fetch it again")
    return stated


def read_config(folder: Path, ignored: Collection[str]) -> tuple[Any, type, Kind, list[str]]:
    """The configuration of a folder as transformers' own class has it, the class and kind of its model, and notes.

    Settings in ``ignored`` are not looked at, as the user wants it.

    Raises:
        CheckpointMismatch: only the authors' own code knows the architecture, or a setting that changes the computation.
        BadData: the configuration cannot be read.
    """
    stated = read_json(folder)
    path, family = folder / "config.json", str(stated["model_type"])
    from transformers import CONFIG_MAPPING

    remote = stated.get("auto_map") or {}
    code = next((_class_of(remote[name]) for name in OURS if name in remote), None)
    if family not in CONFIG_MAPPING:
        whose = (
            f"it needs its authors' own code ({code}), which is not run"
            if code
            else "this version of transformers has no such class"
        )
        raise CheckpointMismatch(f"{path}: model_type {family[:60]!r}: {whose}; 0 tensors were loaded")
    if code and "auto_map" not in ignored:
        raise CheckpointMismatch(
            f"{path}: its authors compute with their own code ({code}), which is not run and may differ from transformers' "
            f"{family}; if you know that it does not, --option ignore=auto_map; 0 tensors were loaded"
        )
    kind = _kind(stated, family)
    try:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises all kinds
        raise BadData(f"{path}: transformers cannot read it ({type(error).__name__}: {_short(error)})") from None
    _check_shape(config, path)
    cls = model_class(config, kind)
    if unknown := {key: value for key, value in unknown_settings(stated, config, cls).items() if key not in ignored}:
        listed = ", ".join(f"{key} {_short(value)}" for key, value in unknown.items())
        raise CheckpointMismatch(
            f"{path}: transformers' {type(config).__name__} does not know {listed[:200]}, which may change what is computed; "
            f"if you know that it does not, --option ignore={','.join(unknown)[:100]}; 0 tensors were loaded"
        )
    if getattr(config, "quantization_config", None):
        raise CheckpointMismatch(
            f"{path}: its weights are quantised; give them in float32, float16 or bfloat16; 0 tensors were loaded"
        )
    notes = [f"authors' code that is not run: {', '.join(sorted(map(_class_of, remote.values())))}"] if remote else []
    return config, cls, kind, notes


def _check_shape(config: Any, path: Path) -> None:
    if absent := [name for name in SHAPE if getattr(config, name, None) is None]:
        raise CheckpointMismatch(f"{path}: model_type {config.model_type!r} has no {absent[0]}; only models of text are read")
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointMismatch(
            f"{path}: model_type {config.model_type!r} has an encoder and a decoder, which answers for another sequence than the "
            "window; give a model with one of them"
        )
    check_fields({name: getattr(config, name) for name in SHAPE}, SHAPE, path)
    heads = {"num_attention_heads": getattr(config, "num_attention_heads", None)}
    if isinstance(heads["num_attention_heads"], int):
        check_fields(heads, {"num_attention_heads": HEADS}, path)


def model_class(config: Any, kind: Kind) -> type:
    """The class of transformers for a configuration.

    Raises:
        CheckpointMismatch: there is none that reads a sequence.
    """
    import transformers

    auto = {
        "masked": transformers.AutoModelForMaskedLM,
        "causal": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModel,
    }[kind]
    try:
        found = auto._model_mapping[type(config)]
    except KeyError:
        raise CheckpointMismatch(f"model_type {config.model_type!r}: transformers has no {auto.__name__} of it") from None
    return found[0] if isinstance(found, tuple) else found


def unknown_settings(stated: Mapping[str, Any], config: Any, cls: type) -> dict[str, Any]:
    """The settings of a config.json that neither its class nor the model's code reads, and that are not known to be harmless."""
    known = {*type(config)().to_dict(), *getattr(config, "attribute_map", {})}
    code = "".join(inspect.getsource(sys.modules[one.__module__]) for one in (type(config), cls))
    return {
        key: value
        for key, value in stated.items()
        if key not in known
        and key not in HARMLESS
        and (value not in NEUTRAL[key] if key in NEUTRAL else value not in (None, False, "", [], {}))
        and not re.search(rf"config\.{re.escape(key)}\b|[\"']{re.escape(key)}[\"']", code)
    }


def _kind(stated: Mapping[str, Any], family: str) -> Kind:
    from transformers.models.auto import modeling_auto as auto

    named = [str(name) for name in stated.get("architectures") or ()]
    causal, masked = family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if causal and (not masked or any(name.endswith(CAUSAL_ENDINGS) for name in named)):
        return "causal"
    return "masked" if masked else "encoder"


def _class_of(entry: Any) -> str:
    """``modeling.Class`` of an entry of an auto_map."""
    text = str(entry[0] if isinstance(entry, list | tuple) and entry else entry)
    return text.rpartition("--")[2][:80]


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= 120 else f"{text[:120]}…"
