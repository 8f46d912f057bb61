"""Quantize large language models to 8 bits, weights and activations, and run them.

    from planish import pipeline, EngineConfig, GenerationConfig, quantize

    with pipeline("MODEL") as pipe:
        print(pipe("Shanghai is").text)
"""

from planish._config import EngineConfig, GenerationConfig
from planish._pipeline import Pipeline, Response, Stream, pipeline
from planish._planish import Error, __version__
from planish._quantize import quantize

__all__ = [
    "EngineConfig",
    "Error",
    "GenerationConfig",
    "Pipeline",
    "Response",
    "Stream",
    "__version__",
    "pipeline",
    "quantize",
]
