"""RNAErnie (Wang et al. 2024, Nat. Mach. Intell. 6): three different checkpoints under one name.

* ``llm-eda``, LLM-EDA/RNAErnie on the hub: retrained with another vocabulary; 2,048 positions, no pooler.
* ``paddle``, the paper's own weights, a PaddlePaddle file. Run ``PADDLE_COMMAND`` once beside it, on a machine that has
  PaddlePaddle, to write the .npz that is read here. Its linear layers are stored (in, out) and are all transposed on loading.
* ``multimolecule``, multimolecule/rnaernie on the hub: the paper's weights, converted. Until May 2026 the converter left
  the square matrices (query, key, value, pooler, the masked-language head's linear layer) transposed, as PaddlePaddle
  stores them. Their shapes do not show it, so :func:`judge_orientation` tests the model.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from harness.card import ModelCard
from harness.data import Window
from harness.errors import BadData, CheckpointMismatch, UserError
from harness.files.checkpoint import TEXT, Field, check_fields, check_finite, read_config, read_tensors, rename, weight_file
from harness.recipe import Recipe

from ._bert import BERT_NAMES, POST_NORM, has_language_head, read_shape
from ._config import Settings, check_settings
from ._options import checked, of_size
from ._rna import FIELDS, SETTINGS, RNAModel, Vocabulary, check_ids, read_known_config, read_vocabulary
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
    """One published form of RNAErnie: the prefixes of its tensors' names, its shape and its vocabulary (of any of ``sizes``)."""

    prefixes: tuple[str, ...]
    base: Shape
    vocabulary: Vocabulary
    sizes: tuple[int, ...]
    families: tuple[str, ...]
    pooler: bool


PAPER = Shape(layers=12, width=768, heads=12, inner=3072, vocabulary=39, positions=513, activation="relu")
LAYOUTS = {
    "llm-eda": Layout(
        prefixes=("bert.",),
        base=replace(PAPER, vocabulary=11, positions=2048, activation="gelu"),
        vocabulary=Vocabulary(11, pad=0, start=2, end=3, mask=5, bases=(6, 8, 9, 7), other=10),
        sizes=(11,),
        families=("bert",),
        pooler=False,
    ),
    "paddle": Layout(
        prefixes=("ernie.",),
        base=PAPER,
        vocabulary=Vocabulary(39, pad=0, start=2, end=3, mask=4, bases=(35, 37, 38, 36), other=1, knows_n=False),
        sizes=(39,),
        families=("ernie",),
        pooler=True,
    ),
    "multimolecule": Layout(
        prefixes=("model.", "rnaernie."),
        base=replace(PAPER, vocabulary=28),
        vocabulary=Vocabulary(28, pad=0, start=1, end=2, mask=4, bases=(6, 7, 8, 9), other=10),
        sizes=(26, 28),
        families=("rnaernie",),
        pooler=True,
    ),
}
SIZES = {"tiny": {"layers": 2, "width": 64, "heads": 4, "inner": 128}, "base": {}}  # what differs from the published shape

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


class RNAErnie(RNAModel):
    """Embedding: the tanh pooler on the start token if the checkpoint has one, as in upstream's classifier; else the bases' mean.

    Follows paddlenlp's ``ErnieModel`` and transformers' ``BertModel``. A window's T is read as U if the vocabulary has U.
    ``layout`` names one of the three checkpoints; ``auto`` recognises it by its tensors' names, and means ``llm-eda`` at random
    initialisation. ``transposed`` is for the multimolecule port: ``yes`` or ``no`` for its square matrices, ``auto`` to find out.
    ``long=chunks`` reads windows beyond the table of positions in pieces, as the authors do; they average the pieces' scores.
    """

    name: ClassVar[str] = "rnaernie"
    card = ModelCard(
        summary="12-layer BERT of non-coding RNA, one token a base; three checkpoints of one name are told apart",
        paper="Wang et al. 2024, Nat. Mach. Intell. 6, 548-557",
        licence="original MIT; LLM-EDA: none stated; the multimolecule port's files are AGPL-3.0, and read here as data only",
        alphabet="ACGU, and N but in the original",
        parameters="87.2 M; the original 86.7 M",
        max_length=2046,
        checkpoint="LLM-EDA/RNAErnie",
        files=("config.json", "vocab.txt", "model.safetensors"),
        get="the paper's weights (511 nt): Zenodo 10847620, converted as adapters/rnaernie.py says; port: multimolecule/rnaernie",
    )
    # The authors' run_seq_cls.py: AdamW at a constant 1e-4, batches of 50 and 50 epochs, there without early stopping.
    recipe = Recipe(learning_rate=1e-4, batch_size=50, epochs=50, schedule="constant", warmup=0.0)
    lora_targets = ("query", "value")
    remedy = "--option long=chunks reads longer ones in pieces"

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | None = None,
        *,
        size: str = "base",
        layout: str = "auto",
        pooling: str = "auto",
        layer: int = -1,
        transposed: str = "auto",
        long: str = "refuse",
    ) -> Self:
        checked("layout", layout, ("auto", *LAYOUTS))
        checked("transposed", transposed, ("auto", "yes", "no"))
        if checkpoint is None:
            known = LAYOUTS["llm-eda" if layout == "auto" else layout]
            shape = replace(known.base, **of_size(cls.name, size, SIZES))
            pooling = default_pooling(pooling, layer, known.pooler)
            return cls(shape, known.vocabulary, pooling, layer, pooler=known.pooler, long=long)

        file = weight_file(checkpoint, *PADDLE_FILES, "model_state.pdparams")
        theirs = read_arrays(file)
        layout = recognise(theirs, layout, file)
        known = LAYOUTS[layout]
        tensors = rename(theirs, PADDLE_NAMES if layout == "paddle" else BERT_NAMES, file)
        if layout == "paddle":
            tensors = {name: tensor.T.contiguous() if is_linear(name, LINEAR) else tensor for name, tensor in tensors.items()}
        config = read_paddle_config(file) if layout == "paddle" else read_known_config(file, known.families, POST_NORM_SETTINGS)
        shape = read_shape(known.base, tensors, config, file)
        vocabulary = read_vocabulary(file, shape.vocabulary, known.vocabulary, known.sizes)
        check_ids(config, vocabulary, file)

        pooler = "pooler.weight" in tensors
        pooling = default_pooling(pooling, layer, pooler)
        model = cls(shape, vocabulary, pooling, layer, has_language_head(tensors), pooler, long)
        config_found = "read" if config else f"none: {shape.heads} heads, {shape.activation}, eps {shape.epsilon} assumed"
        model.take(tensors, file, {"layout": layout, "pooler": pooler, "config": config_found})
        if layout == "multimolecule":
            verdict, evidence = judge_orientation(model) if transposed == "auto" else (transposed, "as the option says")
            if verdict == "yes":
                transpose_square_matrices(model)
            assert model.audit is not None
            facts = model.audit.facts | {"transposed": verdict, "transposed_evidence": evidence}
            model.audit = replace(model.audit, facts=facts)
        elif transposed != "auto":
            raise UserError(
                f"option transposed={transposed!r}: only for the multimolecule port, and {file} is {layout}; leave it out"
            )
        return model


def default_pooling(pooling: str, layer: int, pooler: bool) -> str:
    """Resolve ``auto``: the pooler if there is one and the last layer, which alone it reads, is asked for; else the mean."""
    if pooling != "auto":
        return pooling
    return "pooler" if pooler and layer == -1 else "mean"


def recognise(tensors: Mapping[str, Tensor], wanted: str, file: Path) -> str:
    """The layout whose prefixes most of the tensors have.

    Raises:
        CheckpointMismatch: it is none, or another than ``wanted``; the message counts the tensors.
    """
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
    return found


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
