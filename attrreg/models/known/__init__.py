"""Known models: one file per family. What they are made of is imported when it is built."""
