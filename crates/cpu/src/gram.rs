//! Statistics of activations: Gram matrices and column maxima.
