//! Changes a model: calibration, SmoothQuant, GPTQ and round-to-nearest.
#![forbid(unsafe_code)]
