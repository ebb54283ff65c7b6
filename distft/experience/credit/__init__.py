"""What each token of a rollout is worth: one file a way of assigning credit. See `base`."""
