"""Networks that are denoisers: the diffusion transformer of MDLM, and what builds one from its settings."""
