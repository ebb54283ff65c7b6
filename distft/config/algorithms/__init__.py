"""One file a method, named as its kind: its keys, its traits, its own rules (see ``distft.config.method``)."""
