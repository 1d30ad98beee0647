"""The clauses of the contract. Each is a function whose docstring is its statement, in one line.

It returns what it measured, or raises :class:`Violation` or :class:`Skipped`.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness import registry
from harness.adapter import Adapter, MaskedModel
from harness.data import Window, reverse_complement
from harness.engine.predict import to_device
from harness.errors import HarnessError, UserError
from harness.facts import ModelFacts, read_card

from .bases import base_states
from .candidate import (
    TOLERANCE,
    Candidate,
    Skipped,
    Violation,
    described,
    device_of,
    finite,
    gap,
    random_windows,
    read,
    same,
    some,
    with_base,
)

MIN_SPREAD = 1e-4  # smallest standard deviation between embeddings of random windows, as a share of the largest value
LONGEST_WINDOW = 1500  # nucleotides; windows of at most this length are searched for truncation

Clause = Callable[[Candidate], str | None]


def facts(model: Candidate) -> None:
    """the name is the file's, the card is a literal, the docstring says what is embedded"""
    cls = type(model.adapter)
    file = Path(inspect.getfile(cls))
    if file.stem != cls.name and registry.model_files().get(cls.name) != file:
        raise Violation(f"name {cls.name!r}, but the file is {file.name}")
    if read_card(file) != cls.card:
        raise Violation(f"{file.name}: the card in the file is not the card of the class")
    try:
        ModelFacts(cls.name, cls.card, cls.recipe, {}, cls.recipes)
    except UserError as error:
        raise Violation(str(error)) from None
    if cls.card.reads not in ("sequence", "alignment", "score"):
        raise Violation(f"card.reads {cls.card.reads!r}: expected sequence, alignment or score")
    if "embedding" not in (cls.__doc__ or "").lower():
        raise Violation(f"the docstring of {cls.__name__} does not say what its embedding is; begin it with 'Embedding: the …'")


def shapes(model: Candidate) -> str:
    """embeddings are finite floating-point numbers, embedding_dim of them per window"""
    for count in (1, 5):
        embeddings, expected = model.embed(model.windows(*[40] * count)), (count, model.adapter.embedding_dim)
        if embeddings.shape != expected:
            raise Violation(f"{count} windows give {tuple(embeddings.shape)}, expected {expected}")
        if not embeddings.is_floating_point():
            raise Violation(f"embeddings are {embeddings.dtype}, expected floating point")
        finite(embeddings, f"{count} windows")
    return f"{embeddings.shape[1]} {str(embeddings.dtype).removeprefix('torch.')} a window"


def batches(model: Candidate) -> str:
    """a batch holds CPU tensors with one row per window, and survives pickling"""
    batch = model.adapter.collate(model.windows(40, 30, 20))
    if not isinstance(batch, dict) or not batch:
        raise Violation(f"collate gives a {type(batch).__name__}, expected a dict of tensors")
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise Violation(f"batch[{name!r}] is a {type(value).__name__}, expected a tensor")
        if value.device.type != "cpu":
            raise Violation(f"batch[{name!r}] is on {value.device}; the engine moves batches to the device")
        if value.ndim == 0 or len(value) != 3:
            raise Violation(f"batch[{name!r}] has the shape {tuple(value.shape)} for 3 windows; its first axis must be 3")
    again = pickle.loads(pickle.dumps(batch))
    if not all(torch.equal(again[name], value) for name, value in batch.items()):
        raise Violation("another batch comes out of pickling than went in")
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())


def no_trace(model: Candidate) -> None:
    """collate is deterministic, draws no random numbers, and leaves windows and training modes alone"""
    windows = model.windows(40, 30)
    alignments = copy.deepcopy([window.alignment for window in windows])
    for training in (True, False):
        adapter = copy.deepcopy(model.adapter).train(training)
        modes, numbers = [module.training for module in adapter.modules()], _random_state()
        first, second = adapter.collate(windows), adapter.collate(windows)
        if _random_state() != numbers:
            raise Violation("collate moved the global random state; augmentation belongs to the task or to forward")
        adapter(to_device(first, device_of(adapter)))
        if [module.training for module in adapter.modules()] != modes:
            raise Violation(f"with training={training}, collate and forward change the training mode of a module")
        if first.keys() != second.keys() or not all(torch.equal(first[name], second[name]) for name in first):
            raise Violation("collate gives two different batches for the same windows")
    if not all(np.array_equal(window.alignment, before) for window, before in zip(windows, alignments)):  # type: ignore
        raise Violation("collate writes into the windows' alignments")


def alignment_is_optional(model: Candidate) -> None:
    """a window without an alignment is read as an alignment of one row"""
    if model.adapter.card.reads != "alignment":
        raise Skipped(f"the model reads {model.adapter.card.reads}s")
    finite(model.embed(random_windows([40, 30])), "windows without alignments")


def padding(model: Candidate) -> str:
    """padding does not change an embedding"""
    windows = model.windows(20, 60, 33, 47, 59, 21)
    alone = torch.cat([model.embed([window]) for window in windows])
    return same(model.embed(windows), alone, "a window in a batch of 20 to 60 nt, and alone")


def order(model: Candidate) -> str:
    """order in the batch does not change an embedding"""
    windows = model.windows(20, 60, 33, 47, 59, 21)
    return same(model.embed(windows[::-1]).flip(0), model.embed(windows), "a batch backwards, and forwards")


def determinism(model: Candidate) -> None:
    """in evaluation mode the same windows give the same bits twice"""
    windows, found = model.windows(40, 30, 20), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(model.embed(windows))
    if not torch.equal(*found):
        raise Violation(f"the same batch twice differs by up to {gap(*found):.2g}; something random is on in evaluation mode")


def gradients(model: Candidate) -> str:
    """every trained parameter gets a gradient"""
    adapter = copy.deepcopy(model.adapter).train()
    trained = {name: parameter for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    if not trained:
        if adapter.recipe.tune != "probe":
            raise Violation(
                f"no parameter is trained, and the recipe has tune={adapter.recipe.tune!r}; a fixed model has 'probe'"
            )
        raise Skipped("no weights: the model is fitted as a probe")
    embeddings = adapter(read(adapter, model.windows(40, 40, 30, 20)))
    (embeddings * torch.randn_like(embeddings)).sum().backward()
    idle = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    if idle:
        raise Violation(f"{len(idle)} of {len(trained)} get none: {some(idle)}; use them, or turn their requires_grad off")
    return f"{len(trained)} parameters"


def lora_layers(model: Candidate) -> str:
    """lora_targets name linear layers that the forward pass calls"""
    targets = model.adapter.lora_targets
    if not targets:
        raise Skipped("lora_targets is empty")
    adapter, called = copy.deepcopy(model.adapter), set()
    layers = {}
    for target in targets:
        named = {name: module for name, module in adapter.named_modules() if f".{name}".endswith(f".{target}")}
        odd = {name: type(module).__name__ for name, module in named.items() if not isinstance(module, nn.Linear)}
        others = [f"{name}, a {kind}" for name, kind in odd.items() if kind != "Conv1D"]  # GPT-2's, a transposed nn.Linear
        if others or not named:
            raise Violation(f"target {target!r} is the name of {some(others) or 'no layer'}; expected nn.Linear")
        layers |= named
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: called.add(name))
    adapter(read(adapter, model.windows(40, 30)))
    idle = [name for name in layers if name not in called]
    if idle:
        raise Violation(f"{len(idle)} of {len(layers)} layers are never called, so that LoRA trains nothing there: {some(idle)}")
    return f"{len(layers)} layers"


def whole_window(model: Candidate) -> str:
    """changing the first or the last letter changes the embedding, in long windows too"""
    longest = min(model.adapter.max_length or LONGEST_WINDOW, LONGEST_WINDOW)
    for length in sorted({min(101, longest), longest}):
        # In a window of one repeated letter a change makes a new motif, which even a maximum over positions shows.
        same = [letter * length for letter in "ACGT"]
        original = model.embed([Window(sequence) for sequence in same])
        for end, changed in (
            ("first", [other + sequence[1:] for sequence, other in zip(same, "CGTA")]),
            ("last", [sequence[:-1] + other for sequence, other in zip(same, "CGTA")]),
        ):
            if torch.equal(model.embed([Window(sequence) for sequence in changed]), original):
                raise Violation(f"a window of {length} nt: a change of its {end} letter does not show; nothing may be cut")
    return f"up to {longest:,} nt"


def too_long(model: Candidate) -> str:
    """a window longer than max_length is refused, not cut"""
    limit = model.adapter.max_length
    if limit is None:
        raise Skipped("max_length is None: any length is read")
    longest = model.windows(limit)
    if limit <= LONGEST_WINDOW:
        finite(model.embed(longest), f"a window of {limit} nt")
    else:
        model.adapter.collate(longest)
    case = f"a window of {limit + 1} nt with max_length {limit}"
    try:
        model.adapter.collate(model.windows(40, limit + 1))
    except HarnessError as error:
        return str(error)
    except Exception as error:
        raise Violation(f"{case} ends in {described(error)}; raise BadData, naming length, limit and remedy") from error
    raise Violation(f"{case} is accepted; collate must refuse it")


def unknown_letters(model: Candidate) -> str | None:
    """windows with N, or of N alone, have finite embeddings; N is not taken for a base"""
    nothing, mixed, *bases = (model.embed([Window(letters)]) for letters in ("N" * 30, "ACGTN" * 6, *(b * 30 for b in "ACGT")))
    finite(nothing, "a window of N alone")
    finite(mixed, "a window with N")
    for base, embedding in zip("ACGT", bases):
        if torch.equal(embedding, nothing):
            raise Violation(f"N is read as {base}: 30 times the one has the embedding of 30 times the other")
    none, _ = model.adapter.unknown_tokens(model.adapter.collate([Window("ACGT" * 8)]))
    some, among = model.adapter.unknown_tokens(model.adapter.collate([Window("ACGTN" * 6)]))
    if none or not 0 <= some <= among:
        raise Violation(f"unknown_tokens counts {none} unknown tokens in ACGT…, and {some} of {among} in ACGTN…")
    return f"{some} of {among} tokens of ACGTN… are unknown" if some else None


def shortest(model: Candidate) -> str:
    """a window of one letter is accepted, alone and beside longer ones, in training too"""
    windows = [Window("A"), Window("C"), *random_windows([40])]
    alone = torch.cat([model.embed([window]) for window in windows])
    finite(alone, "a window of one letter")
    adapter = copy.deepcopy(model.adapter).train()
    for batch in (windows[:1], windows):
        embeddings = adapter(read(adapter, batch))
        finite(embeddings, "a window of one letter in training")
        if embeddings.requires_grad:
            embeddings.sum().backward()
            for parameter in adapter.parameters():
                if parameter.grad is not None:
                    finite(parameter.grad, "gradients from a window of one letter")
    return same(model.embed(windows), alone, "a window of one letter in a batch, and alone")


def not_constant(model: Candidate) -> str:
    """different windows have different embeddings"""
    embeddings = model.embed(model.windows(*[40] * 8)).double()
    spread, largest = float(embeddings.std(dim=0).max()), float(embeddings.abs().max())
    if not spread > MIN_SPREAD * largest:
        raise Violation(f"8 random windows: largest standard deviation {spread:.2g} beside values up to {largest:.2g}")
    return f"standard deviation up to {spread:.2g}, values up to {largest:.2g}"


def both_strands(model: Candidate) -> str:
    """a claim of reverse-complement invariance is true"""
    if not model.adapter.reverse_complement_invariant:
        raise Skipped("not claimed (reverse_complement_invariant is False)")
    windows = random_windows([20, 41, 60])
    turned = [Window(reverse_complement(window.sequence)) for window in windows]
    return same(model.embed(turned), model.embed(windows), "a window's reverse complement, and the window")


def masked_bases(model: Candidate) -> str:
    """probabilities at a masked position sum to 1 and do not depend on the base there"""
    adapter = model.adapter
    if not isinstance(adapter, MaskedModel):
        raise Skipped("the model fills in no bases")

    def ask(windows: Sequence[Window], positions: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            return adapter.base_log_probabilities(to_device(adapter.collate_masked(windows, positions), device_of(adapter)))

    windows, positions = model.windows(40, 40, 30, 31), [0, 39, 15, 7]
    answers = ask(windows, positions)
    if answers.shape != (4, 4):
        raise Violation(f"4 windows give {tuple(answers.shape)}, expected (4, 4): A, C, G and T of each")
    sums = answers.double().exp().sum(dim=1)
    if not (sums - 1).abs().max() < TOLERANCE:
        raise Violation(f"probabilities sum to {sums.min():.4g} to {sums.max():.4g}, expected 1")
    for base in "ACGT":
        hidden = [with_base(window, at, base) for window, at in zip(windows, positions)]
        same(ask(hidden, positions), answers, f"log-probabilities with {base} at the masked position, and with the base there")
    alone = torch.cat([ask([window], [at]) for window, at in zip(windows, positions)])
    return same(answers, alone, "log-probabilities in a batch, and alone")


def pickling(model: Candidate) -> None:
    """the adapter survives pickling"""
    windows = model.windows(40, 30, 20)
    again = Candidate(pickle.loads(pickle.dumps(model.adapter)), model.size)
    if not torch.equal(again.embed(windows), model.embed(windows)):
        raise Violation(f"embeddings of the copy differ by up to {gap(again.embed(windows), model.embed(windows)):.2g}")


def saved_weights(model: Candidate) -> str:
    """saved weights, loaded into a new model of that size, give the same embeddings"""
    file, windows = io.BytesIO(), model.windows(40, 30, 20)
    torch.save(model.adapter.state_dict(), file)
    file.seek(0)
    other = model.rebuilt(seed=1)
    other.adapter.load_state_dict(torch.load(file, weights_only=True))
    found, expected = other.embed(windows), model.embed(windows)
    if not torch.equal(found, expected):
        raise Violation(
            f"embeddings differ by up to {gap(found, expected):.2g}: something random is not in the state_dict (register_buffer)"
        )
    return f"{len(model.adapter.state_dict())} tensors"


def loading(model: Candidate) -> str:
    """every weight comes from the checkpoint, or the audit names it as missing"""
    if model.checkpoint is None:
        raise Skipped("no checkpoint was given (--checkpoint)")
    audit = model.adapter.audit
    if audit is None:
        raise Violation("from_checkpoint leaves no audit; set self.audit, as load_tensors makes it")
    if audit.expected != audit.matched + len(audit.missing):
        raise Violation(f"the audit has {audit.matched} matched and {len(audit.missing)} missing of {audit.expected} tensors")
    other = model.rebuilt(seed=1).adapter.state_dict()
    drawn = [name for name, tensor in model.adapter.state_dict().items() if not torch.equal(tensor, other[name])]
    if hidden := [name for name in drawn if name not in audit.missing]:
        raise Violation(f"{len(hidden)} tensors are random, and the audit does not say so: {some(hidden)}")
    return f"{audit.matched} of {audit.expected} tensors from {audit.source}"


def unknown_size(model: Candidate) -> str:
    """a size that does not exist is refused with a UserError"""
    build = type(model.adapter).from_checkpoint
    try:
        huge = build(None, size="huge")
    except UserError as error:
        if "huge" not in str(error):
            raise Violation(f"the error does not name the size 'huge': {error}") from None
        return str(error)
    except Exception as error:
        raise Violation(f"size='huge' ends in {described(error)}; raise a UserError that names the sizes") from error
    if any(_layout(build(None, size=size)) != _layout(huge) for size in ("tiny", "base")):
        raise Violation("size='huge' is accepted; raise a UserError that names the sizes")
    raise Skipped("the model has one size")


CLAUSES: tuple[Clause, ...] = (
    facts,
    shapes,
    batches,
    no_trace,
    alignment_is_optional,
    padding,
    order,
    determinism,
    not_constant,
    whole_window,
    too_long,
    shortest,
    unknown_letters,
    both_strands,
    masked_bases,
    base_states,
    gradients,
    lora_layers,
    pickling,
    saved_weights,
    loading,
    unknown_size,
)


def _layout(adapter: Adapter) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in adapter.state_dict().items()}


def _random_state() -> bytes:
    numbers = np.random.get_state()  # noqa: NPY002 (what collate must not touch)
    return pickle.dumps((random.getstate(), numbers, torch.get_rng_state().numpy()))
