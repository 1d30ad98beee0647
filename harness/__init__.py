"""gfm-harness: genomic foundation models behind one interface, on the same data, in the same way."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout, adapters/, tasks/ and kernels/ lie beside this folder; a wheel carries them inside it. PyPI owns the
# top-level names `adapters` and `kernels`, so in both cases they are imported as harness.adapters, harness.kernels.
if not (Path(__file__).parent / "adapters").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
