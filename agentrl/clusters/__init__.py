"""Scripts and manifests that start a run on a cluster, and start it again."""
