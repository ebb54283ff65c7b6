"""What a run tells: metrics, events, samples, timings, progress, W&B, environment, how it ended. No torch here."""
