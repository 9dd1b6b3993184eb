"""The page of a study: what its tables say, in sections, as HTML and Markdown."""
