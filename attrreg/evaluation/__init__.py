"""What a trained model can do: measures as plain functions of tensors, and the scores of a run.

Predictions and calibration (`accuracy`, `calibration`, `calibration_bias`), robustness
(`occlusion`, `shift`), maps (`faithfulness`, `erasure`, `saliency`, `localization`, `map_quality`),
features (`diversity`), what masks give away (`leak`); `measures` asks them of a `subject`.
"""
