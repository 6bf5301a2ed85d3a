"""Each script asks one tool, or one method, for allocations of bits at several sizes.

The first argument is a folder with ``inputs.json`` (:class:`~benchmarks.peer_tools.inputs.Inputs`)
and the second the file to write: bits by module path, for each size. Tools are run in processes of
their own, so that their time and memory are theirs alone.
"""
