"""What a plan is made of, all pure: sizes, bytes and seconds of every role, and where its ranks sit."""
