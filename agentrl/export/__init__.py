"""A run as others read it: folders for transformers and peft, and what is said in them."""
