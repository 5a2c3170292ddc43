"""Long runs: device and number format, the loop, optimiser, averages, metrics, and several processes."""
