"""Learned policies: a network that decides which positions to reveal, trained by `unmask learn` (arXiv:2512.09106)."""
