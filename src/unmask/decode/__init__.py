"""Decoding: the loop, the rows it writes, how tokens are drawn, and the options of a request."""
