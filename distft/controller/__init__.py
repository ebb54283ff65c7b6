"""The loops: when things happen, never how. No torch and no token tensors here."""
