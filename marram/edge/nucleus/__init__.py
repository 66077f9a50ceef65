"""The nucleus: configuration tree, supervisor of component processes, package folders."""
