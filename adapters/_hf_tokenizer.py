"""The tokenizer beside a checkpoint, without the authors' code, and the reader that its vocabulary is made for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError

from ._hf_letters import BASES, Alphabet, Blocks, Kmers, Letters, Raw, Reader

ALPHABETS = [Alphabet(upper, thymine) for upper in (True, False) for thymine in (True, False)]
BLOCK_TOKENIZERS = ("EsmTokenizer", "DNAKmerTokenizer")  # k-mers that do not overlap
PREFIXES = ("<dna>", "<DNA>", "<|dna|>")  # that switch a tokenizer of several languages to DNA
TEXT_ONLY = re.compile(r"[ACGTUacgtu]+")
# What the special tokens are called where no file says so.
USUAL = {
    "unk": ("[UNK]", "<unk>", "<oov>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]", "<cls>", "<s>", "<bos>", "[BOS]"),
    "sep": ("[SEP]", "<sep>", "</s>", "<eos>", "[EOS]"),
    "bos": ("<s>", "<bos>", "[BOS]"),
}


@dataclass(frozen=True)
class Vocabulary:
    """Token → id, the ids of special tokens, and what stands before and after every sequence.

    ``other`` is the unknown token, or what is taken for one; ``kind`` the tokenizer's class. ``tokenizer`` is that of
    transformers, or None where the vocabulary is read without it.
    """

    ids: Mapping[str, int]
    other: int
    mask: int | None
    pad: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    kind: str
    tokenizer: Any = None


def read_vocabulary(folder: Path, causal: bool) -> Vocabulary:
    """The vocabulary of a folder in the hub's layout. A tokenizer of the authors' own code is not run; its vocab.txt is read.

    Raises:
        DataMissing: there is no tokenizer.
        BadData: it cannot be read, or only by the authors' code.
    """
    stated = _json(folder / "tokenizer_config.json")
    kind = str(stated.get("tokenizer_class") or "")
    needs_code = "AutoTokenizer" in (stated.get("auto_map") or {}) and not (folder / "tokenizer.json").is_file()
    listed = folder / "vocab.txt"
    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
    ):
        raise DataMissing(f"{folder}: no tokenizer beside the weights (tokenizer.json or vocab.txt); put it there")
    if not needs_code:
        try:
            return _from_transformers(_load(folder), folder)
        except UserError:
            raise
        except Exception as error:  # transformers raises all kinds
            if not listed.is_file():
                reason = " ".join(str(error).split())[:160]
                raise BadData(f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {reason})") from None
    if not listed.is_file():
        raise BadData(
            f"{folder}: its tokenizer ({kind or 'AutoTokenizer'}) is its authors' own code, which is not run here; "
            "a tokenizer.json or vocab.txt would be read"
        )
    words = listed.read_text(encoding="utf-8").split("\n")
    ids = {word.strip(): number for number, word in enumerate(words) if word.strip()}
    special = _json(folder / "special_tokens_map.json") | stated
    return _from_names(ids, {name: special.get(f"{name}_token") for name in USUAL}, causal, kind)


def _json(file: Path) -> dict[str, Any]:
    """The object in a file of the tokenizer; empty where there is none.

    Raises:
        BadData: it is not a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError, RecursionError):
        pass
    raise BadData(f"{file}: not a JSON object; fetch it again")


def of_letters(words: Iterable[str]) -> Vocabulary:
    """The vocabulary of a model without files, whose tokens are ``words`` in order."""
    return _from_names({word: number for number, word in enumerate(words)}, {}, False, "")


def _from_names(ids: Mapping[str, int], stated: Mapping[str, Any], causal: bool, kind: str) -> Vocabulary:
    def find(role: str) -> int | None:
        given = stated.get(role)
        given = given.get("content") if isinstance(given, Mapping) else given
        return next((ids[name] for name in ((given,) if given else USUAL[role]) if name in ids), None)

    start, end = (find("bos"), None) if causal else (find("cls"), find("sep"))
    others = [find(role) for role in ("unk", "mask", "pad", "sep", "bos")]
    other = next((id for id in others if id is not None), None)
    if other is None:
        raise BadData(f"vocabulary of {len(ids)} tokens: no unknown, mask or padding token among them")
    pad = find("pad")
    around = [() if id is None else (id,) for id in (start, end)]
    return Vocabulary(ids, other, find("mask"), other if pad is None else pad, around[0], around[1], kind)


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception:  # of a class that needs a package or is not known; its tokens stand in tokenizer.json
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise
        stated = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
        names = {name: value for name, value in stated.items() if re.fullmatch(r"(unk|pad|mask|cls|sep|bos|eos)_token", name)}
        texts = {name: value["content"] if isinstance(value, dict) else value for name, value in names.items()}
        return PreTrainedTokenizerFast(tokenizer_file=str(file), **{name: text for name, text in texts.items() if text})


def _from_transformers(tokenizer: Any, folder: Path) -> Vocabulary:
    before, after = _around(tokenizer, folder)
    roles = (
        tokenizer.unk_token_id,
        tokenizer.mask_token_id,
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
        tokenizer.pad_token_id,
    )
    other = next((id for id in roles if id is not None), None)
    if other is None:
        raise BadData(
            f"{folder}: its tokenizer has no unknown, mask, end or padding token; put its special_tokens_map.json there"
        )
    pad = other if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    kind = type(tokenizer).__name__
    return Vocabulary(tokenizer.get_vocab(), other, tokenizer.mask_token_id, pad, before, after, kind, tokenizer)


def _around(tokenizer: Any, folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a tokenizer puts before and after every sequence."""
    for text in ("A", "a", "ACGTACGTACGT", "N", "0"):
        whole = list(tokenizer(text)["input_ids"])
        inner = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        for start in range(len(whole) - len(inner) + 1):
            if inner and whole[start : start + len(inner)] == inner:
                return tuple(whole[:start]), tuple(whole[start + len(inner) :])
    raise BadData(f"{folder}: its tokenizer reads no letter at all; is it that of these weights?")


def check_rows(vocabulary: Vocabulary, rows: int, where: Path) -> str | None:
    """Hold a vocabulary to the number of ``rows`` of the embedding; a sentence where it has more that no text can reach.

    Entries without letters (GROVER's 610th, which is empty) are never made from a window.

    Raises:
        CheckpointMismatch: it has tokens for which there is no row.
    """
    beyond = {word: id for word, id in vocabulary.ids.items() if id >= rows}
    reachable = sorted(word for word in beyond if word.strip())
    special = {vocabulary.other, vocabulary.pad, *vocabulary.before, *vocabulary.after}
    if reachable or max(special) >= rows:
        some = ", ".join(map(repr, reachable[:3])) + (", …" if len(reachable) > 3 else "")
        raise CheckpointMismatch(
            f"{where}: its tokenizer has {max(vocabulary.ids.values()) + 1} tokens, the embedding {rows} rows; there is none for "
            f"{some or 'its special tokens'}: put the tokenizer of these very weights beside them"
        )
    return f"entries of the tokenizer beyond the embedding: {len(beyond)}, empty and never used" if beyond else None


def choose_reader(vocabulary: Vocabulary, letters: str, causal: bool, where: str) -> tuple[Reader, list[str]]:
    """The reader that ``letters`` names, or ``auto`` finds, and what is uncertain about it.

    ``letters`` is raw, spaced, kmer (overlapping) or 6mer (blocks, of any number of bases), after which ``,u`` or ``,t`` and
    ``,lower`` or ``,upper`` may say how letters are written. Of a vocabulary of k-mers alone, those that do not overlap are meant
    if the model is causal, its tokenizer reads sequences as they are, or is one of BLOCK_TOKENIZERS.

    Raises:
        UserError: ``letters`` is none of these, or the vocabulary cannot be read so.
        BadData: no way is found in which A, C, G and T are all known.
    """
    kind, alphabets = _asked(letters)
    ids, notes = dict(vocabulary.ids), []
    words = [word for word in ids if TEXT_ONLY.fullmatch(word)]
    sizes = {len(word) for word in words if len(word) > 1}
    k = _whole_kmers(ids, sizes, alphabets)
    switched = any(prefix in ids for prefix in PREFIXES)
    only_kmers = k is not None and (sizes == {k} or (switched and vocabulary.tokenizer is None))
    if kind == "auto":
        if only_kmers:
            assert k is not None
            in_blocks = causal or vocabulary.kind in BLOCK_TOKENIZERS or _reads_blocks(vocabulary, k, alphabets)
            kind = f"{k}mer" if in_blocks else "kmer"
            if not in_blocks and any(len(word) == 1 for word in words):
                notes.append(f"letters: {k}-mers are taken to overlap; --option letters={k}mer reads them as blocks")
        elif sizes:
            kind = "raw"
        else:
            kind = "spaced" if words else "raw"
        if switched and kind == "raw" and vocabulary.tokenizer is None:
            raise BadData(f"{where}: its tokenizer is its authors' own code, which is not run here, and its tokens are no k-mers")
    if kind == "raw":
        return _raw(vocabulary, alphabets, where), notes
    found = [alphabet for alphabet in alphabets if all(alphabet.write(base) in ids for base in BASES)]
    if kind == "spaced":
        if not found:
            raise BadData(
                f"{where}: its vocabulary of {len(ids)} tokens has no A, C, G and T; give --option letters=raw or another"
            )
        if len(found) > 1 and {alphabet.upper for alphabet in found} == {found[0].upper}:
            notes.append("letters: the vocabulary has both T and U, and T is used; --option letters=spaced,u uses U")
        name = "raw" if _one_a_base(vocabulary, found[0]) else "spaced"
        return Letters(ids, found[0], vocabulary.other, vocabulary.mask, name), notes
    k = int(kind[0]) if kind != "kmer" else k
    alphabet = None if k is None else next((it for it in alphabets if _has_kmers(ids, k, it)), None)
    if k is None or alphabet is None:
        raise UserError(
            f"option letters={letters!r}: {where} has no vocabulary of all k-mers; leave it out, or give raw or spaced"
        )
    made = Kmers if kind == "kmer" else Blocks
    return made(ids, k, alphabet, vocabulary.other, vocabulary.mask), notes


def _asked(letters: str) -> tuple[str, list[Alphabet]]:
    kind, *how = (word.strip().lower() for word in letters.split(","))
    known = {"u": {"thymine": False}, "t": {"thymine": True}, "lower": {"upper": False}, "upper": {"upper": True}}
    if not (kind in ("auto", "raw", "spaced", "kmer") or re.fullmatch(r"[2-8]mer", kind)) or set(how) - known.keys():
        raise UserError(
            f"option letters={letters!r}: choose auto, raw, spaced, kmer (overlapping) or 6mer (blocks), with ,u ,t ,lower or "
            ",upper after it if needed"
        )
    fixed: dict[str, bool] = {}
    for word in how:
        fixed |= known[word]
    return kind, [it for it in ALPHABETS if all(getattr(it, name) == value for name, value in fixed.items())]


def _has_kmers(ids: Mapping[str, int], k: int, alphabet: Alphabet) -> bool:
    return all(alphabet.write("".join(word)) in ids for word in product(BASES, repeat=k))


def _whole_kmers(ids: Mapping[str, int], sizes: set[int], alphabets: list[Alphabet]) -> int | None:
    """The largest k of which the vocabulary has every k-mer."""
    able = (k for k in range(8, 1, -1) if k in sizes and 4**k <= len(ids))
    return next((k for k in able if any(_has_kmers(ids, k, alphabet) for alphabet in alphabets)), None)


def _probes(count: int = 8, length: int = 96) -> list[str]:
    """Random sequences, always the same."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(BASES), length)) for _ in range(count)]


def _reads_blocks(vocabulary: Vocabulary, k: int, alphabets: list[Alphabet]) -> bool:
    """Whether the tokenizer cuts a sequence as it is into blocks of k."""
    if vocabulary.tokenizer is None:
        return False
    alphabet = next(it for it in alphabets if _has_kmers(vocabulary.ids, k, it))
    word = alphabet.write(_probes(1, 4 * k)[0])
    expected = [vocabulary.ids[word[at : at + k]] for at in range(0, 4 * k, k)]
    return list(vocabulary.tokenizer(word, add_special_tokens=False)["input_ids"]) == expected


def _one_a_base(vocabulary: Vocabulary, alphabet: Alphabet) -> bool:
    """Whether the tokenizer reads a sequence as it is, one known token a base."""
    if vocabulary.tokenizer is None:
        return False
    text = alphabet.write(_probes(1)[0])
    return list(vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]) == [vocabulary.ids[letter] for letter in text]


def _drops(reader: Raw, base: str, ids: np.ndarray) -> bool:
    """Whether a tokenizer leaves a base out: ``ids`` of the first probe are those without it."""
    return np.array_equal(reader.ids([_probes(1)[0].replace(base, "")])[0], ids)


def _raw(vocabulary: Vocabulary, alphabets: list[Alphabet], where: str) -> Raw:
    """The tokenizer itself, with the spelling of letters of which it knows most, in fewest tokens."""
    if vocabulary.tokenizer is None:
        raise BadData(f"{where}: its tokenizer is its authors' own code, which is not run here; put a tokenizer.json there")
    tried = []
    for alphabet in alphabets:
        reader = Raw(vocabulary.tokenizer, dict(vocabulary.ids), alphabet, vocabulary.other, vocabulary.mask)
        rows = reader.ids(_probes())
        total = sum(map(len, rows))
        unknown = sum(int((row == vocabulary.other).sum()) for row in rows) / max(total, 1)
        if any(_drops(reader, base, rows[0]) for base in BASES):  # a vocabulary without an unknown token
            unknown = 1.0
        tried.append((unknown, total, reader))
    unknown, _, reader = min(tried, key=lambda it: it[:2])
    if unknown > 0:
        raise BadData(
            f"{where}: {unknown:.0%} of a random sequence's tokens are unknown to its tokenizer, given ACGT as it is; "
            "is it one of DNA or RNA? --option letters=spaced, kmer or 6mer writes them in another way"
        )
    return reader
