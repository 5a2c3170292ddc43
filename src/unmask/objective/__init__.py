"""Training objectives: what a step hides, what it costs in nats, and the bound that is reported."""
