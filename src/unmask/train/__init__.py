"""Fitting a denoiser to text: settings, the plan that fills their gaps, the loop, and what it leaves on disk."""
