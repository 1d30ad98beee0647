"""Tiny checkpoints in the hub's layout, as `transformers` and `tokenizers` write them, of many architectures and vocabularies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ANGLED = ("<pad>", "<unk>", "<cls>", "<mask>")  # Nucleotide Transformer: no end token
SMALL: Mapping[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
GROUPED = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 2048}
POSITIONS = 2050


def kmers(k: int, order: str = "ATCG") -> list[str]:
    return ["".join(word) for word in product(order, repeat=k)]


def fast(
    words: list[str], *, style: str = "bert", model: Any = None, lower: bool = False, around: bool = True, **names: str
) -> Any:
    """A tokenizer of transformers over words, blank-separated unless ``model`` says otherwise, with [CLS] … [SEP]."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(model or WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    if around:
        special = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    roles = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]"} if around else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles | names)


def letters(rna: bool = False) -> Any:
    return fast([*SPECIALS, "N", *("ACGU" if rna else "ACGT")])


def bpe(*, specials: tuple[str, ...] = SPECIALS, around: bool = True, mask: bool = True) -> Any:
    """Bases, their 16 pairs and some fours, merged as byte pairs."""
    from tokenizers.models import BPE

    pairs = kmers(2)
    fours = [left + right for left, right in zip(pairs, reversed(pairs), strict=True)]
    words = [*specials, *"ACGT", *pairs, *dict.fromkeys(fours)]
    merges = [(word[: len(word) // 2], word[len(word) // 2 :]) for word in words[len(specials) + 4 :]]
    model = BPE({word: number for number, word in enumerate(words)}, merges, unk_token="[UNK]")
    tokenizer = fast(words, model=model, around=around)
    if not mask:
        tokenizer.mask_token = None
    return tokenizer


def bert_kmers(k: int, folder: Path, lower: bool = False) -> int:
    """DNABERT-1's layout: vocab.txt, a BertTokenizer; returns its size."""
    words = [*SPECIALS, *kmers(k)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}))
    return len(words)


def esm_blocks(k: int, folder: Path) -> int:
    """Nucleotide Transformer's layout: an EsmTokenizer of k-mers and single letters, without an end token."""
    words = [*ANGLED, *kmers(k), *"ATCGN"]
    (folder / "vocab.txt").write_text("\n".join(words))
    stated = {"tokenizer_class": "EsmTokenizer", "eos_token": None, "cls_token": "<cls>", "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"cls_token": "<cls>", "mask_token": "<mask>", "pad_token": "<pad>", "unk_token": "<unk>"})
    )
    return len(words)


def configs() -> dict[str, tuple[str, Any]]:
    """Name → (tokenizer, configuration class and settings) of the architectures; sizes of vocabularies are put in later."""
    return {
        "bert": ("letters", {"model_type": "bert", **SMALL, "max_position_embeddings": 130}),
        "bert_kmer": ("kmer", {"model_type": "bert", **SMALL, "max_position_embeddings": 130}),
        "roberta": ("rna", {"model_type": "roberta", **SMALL, "max_position_embeddings": 132, "pad_token_id": 0}),
        "esm": (
            "blocks",
            {
                "model_type": "esm",
                **SMALL,
                "max_position_embeddings": 132,
                "pad_token_id": 0,
                "mask_token_id": 3,
                "token_dropout": True,
                "position_embedding_type": "absolute",
                "emb_layer_norm_before": False,
            },
        ),
        "modernbert": (
            "bpe",
            {
                "model_type": "modernbert",
                **SMALL,
                "max_position_embeddings": 2048,
                "pad_token_id": 0,
                "bos_token_id": 2,
                "eos_token_id": 3,
                "cls_token_id": 2,
                "sep_token_id": 3,
            },
        ),
        "big_bird": (
            "bpe",
            {
                "model_type": "big_bird",
                **SMALL,
                "max_position_embeddings": 2048,
                "block_size": 16,
                "pad_token_id": 0,
                "bos_token_id": 2,
                "eos_token_id": 3,
                "sep_token_id": 3,
            },
        ),
        "roformer": ("letters", {"model_type": "roformer", **SMALL, "max_position_embeddings": 130}),
        "deberta-v2": (
            "bpe",
            {
                "model_type": "deberta-v2",
                **SMALL,
                "max_position_embeddings": 2048,
                "relative_attention": True,
                "pos_att_type": ["p2c", "c2p"],
                "position_biased_input": False,
                "position_buckets": 32,
                "max_relative_positions": -1,
            },
        ),
        "gpt2": (
            "causal_bpe",
            {
                "model_type": "gpt2",
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 2,
                "n_positions": 2048,
                "bos_token_id": 2,
                "eos_token_id": 3,
            },
        ),
        "llama": ("causal_bpe", {"model_type": "llama", **GROUPED, "bos_token_id": 2, "eos_token_id": 3}),
        "mistral": ("bpe", {"model_type": "mistral", **GROUPED, "bos_token_id": 2, "eos_token_id": 3}),
        "mixtral": ("bpe", {"model_type": "mixtral", **GROUPED, "num_local_experts": 4, "bos_token_id": 2, "eos_token_id": 3}),
        "gemma": (
            "letters",
            {"model_type": "gemma", **GROUPED, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        ),
        "mamba": (
            "causal_bpe",
            {
                "model_type": "mamba",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "pad_token_id": 0,
                "bos_token_id": 2,
                "eos_token_id": 3,
            },
        ),
    }


def tokenizer_files(kind: str, folder: Path) -> int:
    """Write a tokenizer; the size of its vocabulary."""
    if kind == "kmer":
        return bert_kmers(3, folder)
    if kind == "blocks":
        return esm_blocks(3, folder)
    made = {"letters": letters, "rna": lambda: letters(rna=True), "bpe": bpe, "causal_bpe": lambda: bpe(around=False)}[kind]()
    made.save_pretrained(folder)
    return len(made.get_vocab())


def checkpoint(name: str, folder: Path, head: bool = True, seed: int = 0, **settings: Any) -> Path:
    """A checkpoint of an architecture of :func:`configs` in ``folder``; without its language head if not ``head``."""
    from transformers import AutoConfig

    from harness.adapters._hf_config import _kind, model_class
    from harness.adapters._hf_load import base_of, quietly

    folder.mkdir(parents=True, exist_ok=True)
    kind, stated = configs()[name]
    stated = {**stated, "vocab_size": tokenizer_files(kind, folder), **settings}
    config = AutoConfig.for_model(stated.pop("model_type"), **stated)
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(seed)
        model = model_class(config, _kind({}, config.model_type))(config)
        spread(model)
        (model if head else base_of(model)).save_pretrained(folder)
    return folder


def spread(model: torch.nn.Module) -> None:
    """Larger weights than at initialisation, so that every letter moves an embedding visibly."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)


def edit(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({key: value for key, value in {**content, **changes}.items() if value is not None}))
