"""How each kind of ``distft.config.adapters`` is put into a model and merged into its weights: one file a kind."""
