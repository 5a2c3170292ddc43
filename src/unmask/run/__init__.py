"""What every long run needs: the machine, checkpoints, optimiser, averages, metrics, several processes."""
