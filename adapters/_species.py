"""The species that a model of alignments was trained with, whose order its weights depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from harness.errors import BadData
from harness.files.checkpoint import read_config

from ._config import stated


class TrainedSpecies:
    """What a model knows of the rows of an alignment after the target.

    Attributes:
        species_names: the species that it was trained with, in order; None where the weights do not say.
    """

    name: ClassVar[str]
    species_names: tuple[str, ...] | None = None

    def species_order(self, names: Sequence[str], source: str | Path) -> tuple[int, ...] | None:
        """For each species of the training the number, from 0, of its row in ``names``, the species of an alignment in order.

        It is 0, 1, 2, … if the order is that of the training, and None if the training's species are not known. ``names``
        leaves the target out, and ``source`` is the alignment's path, for the message.

        Raises:
            BadData: the species are others.
        """
        trained = self.species_names
        if trained is None:
            return None
        missing, extra = list(Counter(trained) - Counter(names)), list(Counter(names) - Counter(trained))
        if missing or extra:
            first = f"has no row of {missing[0]!r}" if missing else f"has a row of {extra[0]!r}"
            role = f"row {1 + trained.index(missing[0])} of" if missing else "which is not among"
            raise BadData(
                f"{source}: {first}, {role} the {len(trained)} species that these weights of {self.name} were trained with "
                f"({len(missing)} missing, {len(extra)} others); --species selects rows by name"
            )
        row = {name: number for number, name in enumerate(names)}
        return tuple(row[name] for name in trained)


def recorded_species(file: Path) -> tuple[str, ...] | None:
    """The species after the target that `harness pretrain` recorded beside the weights; None if it did not.

    Raises:
        BadData: the record is not a JSON object.
    """
    names = stated(read_config(file, ("",), "pretrain.json"), "settings.species")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        return None
    return tuple(names[1:])
