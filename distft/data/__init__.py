"""From rows on disk or the hub to token columns: sources, formats, templates, encoding, splits, order."""
