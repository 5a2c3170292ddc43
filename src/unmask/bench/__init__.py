"""The measurements behind `unmask bench`: plain values, with the machine's own matmul rates beside them."""
