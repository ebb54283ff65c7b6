"""One file per loss; every loss is a pure function of tensors and global denominators."""
