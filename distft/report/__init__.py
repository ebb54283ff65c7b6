"""A run folder as one HTML file, and several runs side by side. Reads files only; no torch."""
