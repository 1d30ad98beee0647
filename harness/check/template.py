"""template: one line on what the model is and who published it. Keep the contract: harness check-adapter ./template.py"""

import torch
from torch import nn

from harness.adapter import Adapter
from harness.card import ModelCard
from harness.data import letter_table, letters
from harness.errors import UserError
from harness.files.checkpoint import load_tensors, read_tensors, weight_file
from harness.recipe import Recipe

TOKENS = letter_table({"A": 1, "C": 2, "G": 3, "T": 4}, default=0)  # your vocabulary; here N and padding are 0
SIZES = {"tiny": 16, "base": 128}  # of `--init random:SIZE`


class Template(Adapter):
    """Embedding: the mean of the hidden states of all known bases. (Say here how yours is pooled.)"""

    name = "template"  # as the file
    card = ModelCard(summary="shown by harness list models", paper="authors, year, doi", licence="?", alphabet="ACGT")
    recipe = Recipe(learning_rate=1e-3, batch_size=32, epochs=10)  # your published settings for fine-tuning
    lora_targets = ("dense",)  # name endings of the linear layers that `--tune lora` adapts; () if none

    def __init__(self, width):  # your network; set self.max_length (in nucleotides) if collate refuses longer windows
        super().__init__()
        self.embedding_dim = width
        self.embed, self.conv = nn.Embedding(5, width, padding_idx=0), nn.Conv1d(width, width, 7, padding=3)
        self.dense = nn.Linear(width, width)

    @classmethod
    def from_checkpoint(cls, checkpoint=None, *, size="base"):  # more keywords, with types, become `--option name=value`
        if size not in SIZES:
            raise UserError(f"size {size!r}: {cls.name} comes as {', '.join(SIZES)}")
        model = cls(SIZES[size])
        if checkpoint is not None:  # give a published file's tensors the names in model.state_dict() here
            file = weight_file(checkpoint)
            model.audit = load_tensors(model, read_tensors(file), file)
        return model

    def collate(self, windows):  # windows → tensors on the CPU, one row per window; never truncate
        return {"tokens": torch.from_numpy(TOKENS[letters(windows)])}

    def forward(self, batch):  # → (B, embedding_dim), the same whatever else is in the batch
        states = self.conv(self.embed(batch["tokens"]).transpose(1, 2)).transpose(1, 2)  # (B, L, D)
        known = (batch["tokens"] > 0).unsqueeze(-1)
        return (self.dense(torch.relu(states)) * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
