"""Where models and data sets come from: folders, files, packages, the Hub."""
