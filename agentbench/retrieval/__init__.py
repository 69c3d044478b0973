"""Passages found for a query; knows no benchmark."""
