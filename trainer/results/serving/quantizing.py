"""Quantizes a GGUF file with llama-cpp-python: ``python -m trainer.results.serving.quantizing FROM TO TYPE``.

Source:
    ``llama_model_quantize`` in llama.cpp, include/llama.h; llama-cpp-python passes it on.
"""

import ctypes
import importlib
import sys
from collections.abc import Sequence

from specs import RunError
from specs.doors.door import door


@door
def main(arguments: Sequence[str]) -> int:
    """Write a file in another type; return the exit status.

    Raises:
        RunError: If llama.cpp does not quantize it.
    """
    source, target, file_type = arguments
    library = importlib.import_module("llama_cpp")  # may be missing
    settings = library.llama_model_quantize_default_params()
    settings.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    if library.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)):
        raise RunError("GGUF", f"could not be quantized to {file_type}", None, "llama.cpp says why above")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
