"""Summaries of studies as text, Markdown and a table for the terminal."""
