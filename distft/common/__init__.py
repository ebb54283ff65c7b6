"""The words everybody uses: errors, files, logging, seeds."""
