"""Models as they are published: weights, tokenizers and chat templates, in and out."""
