"""The measurements behind `unmask bench`: each returns plain values, with the machine's own matmul rates beside them."""
