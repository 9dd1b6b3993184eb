"""Playing without training: single episodes in a terminal, stored policies that answer."""
