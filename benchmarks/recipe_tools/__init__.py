"""Each script runs one tool on a model with a recipe, and prints what the tool made of each layer.

They import the tool alone: it is on the path of their own process. Arguments are the folders of the
model and the recipe, and one to write to. The last line is JSON: bits, group size (None for one
scale a row) and symmetry by module path.
"""
