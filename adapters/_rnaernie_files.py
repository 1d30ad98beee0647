"""RNAErnie's published files: their layouts, how they are read, and which way round their square matrices are stored."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data import Window
from harness.errors import BadData, CheckpointMismatch
from harness.files.checkpoint import TEXT, Field, check_fields, check_finite, read_config, read_tensors

from ._bert import POST_NORM
from ._config import Settings, check_settings
from ._rna import FIELDS, MULTIMOLECULE, MULTIMOLECULE_EARLIER, SETTINGS, RNAModel, Vocabulary, own_family, read_known_config
from ._transformer import Shape

PADDLE_COMMAND = (
    "python -c \"import numpy, paddle; w = paddle.load('model_state.pdparams', return_numpy=True); "
    "numpy.savez('model_state.npz', **{k: v for k, v in w.items() if hasattr(v, 'shape')})\""
)
PADDLE_FIELDS: Mapping[str, Field] = {"init_class": TEXT, "init_args": (list, None, None)}
MAX_EXPANSION = 16  # of a compressed .npz; weights shrink by a tenth
PADDLE_FILES = ("model_state.npz", "model_state.safetensors")


@dataclass(frozen=True)
class Layout:
    """One published form of RNAErnie: the prefixes of its tensors' names, its shape and its vocabularies, the latest first."""

    prefixes: tuple[str, ...]
    base: Shape
    vocabularies: tuple[Vocabulary, ...]
    families: tuple[str, ...]
    pooler: bool

    @property
    def vocabulary(self) -> Vocabulary:
        return self.vocabularies[0]


# The types of RNA that the paper's vocabulary has a token for, in the order of their ids, from 7.
RNA_TYPES = (
    "RNaseMRPRNA RNasePRNA SRPRNA YRNA antisenseRNA autocatalyticallysplicedintron guideRNA hammerheadribozyme lncRNA miRNA "
    "miscRNA ncRNA other piRNA premiRNA precursorRNA rRNA ribozyme sRNA scRNA scaRNA siRNA snRNA snoRNA tRNA telomeraseRNA "
    "tmRNA vaultRNA"
)
PAPER = Shape(layers=12, width=768, heads=12, inner=3072, vocabulary=39, positions=513, activation="relu")
LAYOUTS = {
    "llm-eda": Layout(
        prefixes=("bert.",),
        base=replace(PAPER, vocabulary=11, positions=2048, activation="gelu"),
        vocabularies=(Vocabulary("[PAD] [UNK] [CLS] [EOS] [SEP] [MASK] A U C G N"),),
        families=("bert",),
        pooler=False,
    ),
    "paddle": Layout(
        prefixes=("ernie.",),
        base=PAPER,
        vocabularies=(Vocabulary(f"[PAD] [UNK] [CLS] [SEP] [MASK] [DEL] [IND] {RNA_TYPES} A T C G"),),
        families=("ernie",),
        pooler=True,
    ),
    "multimolecule": Layout(
        prefixes=("model.", "rnaernie."),
        base=replace(PAPER, vocabulary=28),
        vocabularies=(MULTIMOLECULE, MULTIMOLECULE_EARLIER),
        families=("rnaernie",),
        pooler=True,
    ),
}
# Of the paper's vocabulary: [IND], which stands before a type of RNA, and the 28 types.
MARK, TYPES = 6, range(7, 35)

# The Paddle file's names → ours.
PADDLE_NAMES = (
    (r"^ernie\.embeddings\.layer_norm\.", "encoder.norm."),
    (r"^ernie\.embeddings\.word_embeddings\.", "encoder.tokens."),
    (r"^ernie\.embeddings\.position_embeddings\.", "encoder.positions."),
    (r"^ernie\.embeddings\.token_type_embeddings\.", "encoder.types."),
    (r"^ernie\.encoder\.layers\.", "encoder.layers."),
    (r"^ernie\.pooler\.dense\.", "pooler."),
    (r"\.self_attn\.out_proj\.", ".out."),
    (r"\.self_attn\.q_proj\.", ".query."),
    (r"\.self_attn\.k_proj\.", ".key."),
    (r"\.self_attn\.v_proj\.", ".value."),
    (r"\.linear1\.", ".up."),
    (r"\.linear2\.", ".down."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".mlp_norm."),
    (r"^cls\.predictions\.transform\.", "lm_head.dense."),
    (r"^cls\.predictions\.layer_norm\.", "lm_head.norm."),
    (r"^cls\.predictions\.decoder_bias$", "lm_head.bias"),
    (r"^cls\.predictions\.decoder_weight$", "lm_head.decoder.weight"),
)
POST_NORM_SETTINGS: Settings = {**SETTINGS, **POST_NORM}
LINEAR = ("query", "key", "value", "out", "up", "down", "pooler", "lm_head.dense")
LEFT_TRANSPOSED = ("query", "key", "value", "pooler", "lm_head.dense")  # by the old converter of the multimolecule port

# Non-coding RNAs of which every RNA model has seen many copies. Whether a model can fill in their bases tells whether it works.
KNOWN_RNAS = {
    "tRNA-Phe, yeast": "GCGGATTTAGCTCAGTTGGGAGAGCGCCAGACTGAAGATCTGGAGGTCCTGTGTTCGATCCACAGAATTCGCACCA",
    "tRNA-fMet, E. coli": "CGCGGGGTGGAGCAGCCTGGTAGCTCGTCGGGCTCATAACCCGAAGGTCGTCGGTTCAAATCCGGCCCCCGCAACCA",
    "tRNA-Ala, E. coli": "GGGGCTATAGCTCAGCTGGGAGAGCGCTTGCATGGCATGCAAGAGGTCTGCGGTTCGATCCCGCGTAGCTCCACCA",
    "5S rRNA, E. coli": "TGCCTGGCGGCCGTAGCGCGGTGGTCCCACCTGACCCCATGCCGAACTCAGAAGTGAAACGCCGTAG"
    "CGCCGATGGTAGTGTGGGGTCTCCCCATGCGAGAGTAGGGAACTGCCAGGCAT",
    "5S rRNA, human": "GTCTACGGCCATACCACCCTGAACGCGCCCGATCTCGTCTGATCTCGGAAGCTAAGCAGGGTCGGGCC"
    "TGGTTAGTACTTGGATGGGAGACCGCCTGGGAATACCGGGTGCTGTAGGCTTT",
    "U6 snRNA, human": "GTGCTCGCTTCGGCAGCACATATACTAAAATTGGAACGATACAGAGAAGATTAGCATGGCCCCTGCGC"
    "AAGGATGACACGCAAATTCGTGAAGCGTTCCATATTTTT",
    "let-7a-1, human": "TGGGATGAGGTAGTAGGTTGTATAGTTTTAGGGTCACACCCACCACTGGGAGATAACTATACAATCTACTGTCTTTCCTA",
    "mir-21, human": "TGTCGGGTAGCTTATCAGACTGATGTTGACTGTTGAATCTCATGGCAACACCAGTCGATGGGCTGTCTGACA",
}


def recognise(tensors: Mapping[str, Tensor], wanted: str, file: Path) -> tuple[str, bool]:
    """The layout whose prefixes most of the tensors have, and whether the file is a ``state_dict`` of ours in this layout.

    Raises:
        CheckpointMismatch: it is none, or another than ``wanted``; the message counts the tensors.
    """
    families = {family: layout for layout, known in LAYOUTS.items() for family in known.families}
    if (family := own_family(tensors, file, tuple(families))) is not None:
        if wanted not in ("auto", families[family]):
            raise CheckpointMismatch(f"checkpoint {file}: pretrained in the layout {families[family]}, not {wanted}")
        return families[family], True
    counts = {layout: sum(name.startswith(known.prefixes) for name in tensors) for layout, known in LAYOUTS.items()}
    found = max(counts, key=lambda layout: counts[layout])
    if counts[found] == 0:
        raise CheckpointMismatch(
            f"checkpoint {file}: 0 of {len(tensors)} tensors are named as in any layout of rnaernie "
            f"({', '.join(LAYOUTS)}); the first is {min(tensors)}"
        )
    if wanted not in ("auto", found):
        raise CheckpointMismatch(
            f"checkpoint {file}: {counts[wanted]} of {len(tensors)} tensors are named as in the {wanted} layout; "
            f"{counts[found]} are as in {found}, another model of the same name"
        )
    return found, False


def read_arrays(file: Path) -> dict[str, Tensor]:
    """Tensors by name, from the .npz of a converted Paddle file or any file of :func:`read_tensors`. No code is run.

    Raises:
        BadData: the file is damaged, or is a raw .pdparams, a pickle; the message says how to convert it.
    """
    if file.suffix == ".pdparams":
        raise BadData(f"checkpoint {file}: a pickle, which is not run here; where PaddlePaddle is installed: {PADDLE_COMMAND}")
    if file.suffix != ".npz":
        return read_tensors(file, "bert.", "ernie.", "rnaernie.")
    try:
        _check_arrays(file)
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadData(f"checkpoint {file}: cannot be read as arrays ({reason}); convert it again: {PADDLE_COMMAND}") from None
    return check_finite(found, file)


def _check_arrays(file: Path) -> None:
    """Check, before any memory is taken, that the arrays are as large as their headers say and not much larger than the file."""
    with zipfile.ZipFile(file) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
        if total > max(MAX_EXPANSION * file.stat().st_size, 1 << 24):
            raise ValueError(f"its {total:,} bytes of arrays are packed into {file.stat().st_size:,}")
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                if stream.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
                    raise ValueError(f"{entry.filename} is not as large as its shape {shape}")


def read_paddle_config(file: Path) -> dict[str, Any]:
    """The hyper-parameters in the model_config.json (or config.json) beside a Paddle file; {} without one.

    Raises:
        BadData: it is not JSON, or a setting has another type or is out of bounds.
        CheckpointMismatch: it is not an ERNIE's.
    """
    path = file.parent / "model_config.json"
    if not path.is_file():
        return read_known_config(file, LAYOUTS["paddle"].families, POST_NORM_SETTINGS)
    config = read_config(file, LAYOUTS["paddle"].families, path.name, PADDLE_FIELDS)
    family = config.get("init_class", "Ernie")
    if not family.startswith("Ernie"):
        raise CheckpointMismatch(f"checkpoint {file}: model_config.json is of the class {family!r}; expected an Ernie")
    config = next((part for part in config.get("init_args", ()) if isinstance(part, dict)), config)
    check_fields(config, FIELDS, path)
    check_settings(config, POST_NORM_SETTINGS, file)
    return config


def is_linear(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a tensor is the weight of one of the linear layers with these name endings."""
    return any(name == f"{module}.weight" or name.endswith(f".{module}.weight") for module in modules)


def transpose_square_matrices(model: RNAModel) -> None:
    """Transpose, in place, every matrix that the old converter left transposed. Doing so twice changes nothing."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if is_linear(name, LEFT_TRANSPOSED):
                weight.copy_(weight.T.clone())


def judge_orientation(model: RNAModel) -> tuple[str, str]:
    """Whether the file's square matrices are transposed: ``yes``, ``no`` or ``undecided``, and the evidence in words.

    A trained model predicts masked bases of well-known RNAs better than base composition does, but only if its matrices have
    the right orientation. Both orientations predict the same bases. The better one is accepted if it beats both composition
    and the other orientation by 0.05 nats a base, the latter also by 4 standard errors. Random weights do neither and are
    left as they are. The model's weights are restored in any case.
    """
    if model.lm_head is None:
        return "undecided", "no masked-language head in the file"
    stored, truth = hidden_base_scores(model)
    transpose_square_matrices(model)
    transposed, _ = hidden_base_scores(model)
    transpose_square_matrices(model)
    counts = np.bincount(truth, minlength=4)
    composition = float(np.log(counts[truth] / len(truth)).mean())
    gain = transposed - stored
    clear = abs(gain.mean()) > max(0.05, 4 * gain.std(ddof=1) / len(gain) ** 0.5)
    works = max(stored.mean(), transposed.mean()) > composition + 0.05
    verdict = ("yes" if gain.mean() > 0 else "no") if clear and works else "undecided"
    evidence = (
        f"mean log-probability of {len(truth)} hidden bases of {len(KNOWN_RNAS)} well-known RNAs: "
        f"{stored.mean():.3f} as stored, {transposed.mean():.3f} transposed, {composition:.3f} by composition alone"
    )
    return verdict, evidence


def hidden_base_scores(model: RNAModel, every: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (n,) of every sixth base of the well-known RNAs, all masked at once, and these bases (n,) as 0 to 3."""
    windows = [Window(sequence[: model.max_length]) for sequence in KNOWN_RNAS.values()]
    tokens = model.collate(windows)["tokens"]
    vocabulary, bases = model.vocabulary, torch.tensor(model.vocabulary.bases)
    position = torch.arange(tokens.shape[1])
    hide = (position % every == every // 2) & torch.isin(tokens, bases)
    truth = (tokens[hide][:, None] == bases).int().argmax(dim=1)  # (n,)
    training = model.training
    model.eval()
    with torch.inference_mode():
        hidden = model.encoder(tokens.masked_fill(hide, vocabulary.mask), tokens != vocabulary.pad)
        scores = model.logits(hidden[hide])[:, bases].log_softmax(dim=-1)
    model.train(training)
    return scores.gather(1, truth[:, None])[:, 0].double().numpy(), truth.numpy()
