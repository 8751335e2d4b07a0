"""Every module here is a plugin: its DATASETS, MODELS and PRESETS stand beside the others."""
