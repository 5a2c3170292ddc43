"""The measurements of `unmask bench`: plain values, with the matmul rates of the machine in the same rounds."""
