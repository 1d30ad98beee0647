"""What lies beside the weights of a model that ``transformers`` reads: its configuration and tokenizer, as text."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._hf_config import unknown_settings
from ._hf_tokenizer import Vocabulary

# Those of a tokenizer that are text.
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def config_text(model: Any) -> str:
    """The config.json of a model, without what its class does not know, and without its authors' code, which did not make it."""
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], next(model.parameters()).dtype
    stated = json.loads(config.to_json_string(use_diff=True))
    for name in ("use_cache", "auto_map", "_name_or_path", *unknown_settings(stated, model.config, type(model))):
        stated.pop(name, None)
    return json.dumps(stated, indent=2, sort_keys=True) + "\n"


def tokenizer_texts(folder: Path, vocabulary: Vocabulary) -> dict[str, str]:
    """The files of the tokenizer in a folder; of one that is not text, the tokenizer.json that transformers makes of it."""
    found = {name: (folder / name).read_text(encoding="utf-8") for name in TOKENIZERS if (folder / name).is_file()}
    backend = getattr(vocabulary.tokenizer, "backend_tokenizer", None)
    if backend is not None and not found.keys() & {"tokenizer.json", "vocab.txt", "vocab.json"}:
        found["tokenizer.json"] = backend.to_str()
    return found


def letter_texts(words: Sequence[str]) -> dict[str, str]:
    """The files of a tokenizer that reads each letter as a token, with [CLS] before a sequence and [SEP] after it."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing

    tokenizer: Any = Tokenizer(WordLevel({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    ends = [(token, words.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{word.strip('[]').lower()}_token": word for word in words if word.startswith("[")}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}),
    }
