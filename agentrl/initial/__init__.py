"""Initial models by name: what a run without published weights starts from."""
