"""The steps of a request, one file each, in the order in which `pipeline.py` takes them."""
