"""Data: arrays that are prepared once, subsets drawn from them, and batches on the device."""
