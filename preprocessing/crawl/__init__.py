"""Photographs asked of the web, at the pace and under the rules that hosts set."""
