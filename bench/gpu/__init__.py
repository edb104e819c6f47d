"""A prepared run for a GPU machine that is at hand for some minutes, see `bench.gpu.__main__`."""
