"""What a trained model can do: calibration, occlusion, and the scores of a run."""
