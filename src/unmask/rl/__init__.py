"""Training an unmasking policy by reinforcement learning on a frozen denoiser (arXiv:2512.09106)."""
